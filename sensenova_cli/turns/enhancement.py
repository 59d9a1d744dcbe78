"""Rewriting of a run's prompts, each before its pictures are drawn, by the model that draws or by another one."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import cast

from config.errors import SenseNovaError
from config.settings import ImageSettings, TextSettings
from model import (
    Answer,
    AnswerRequest,
    Card,
    EditRequest,
    Engine,
    Event,
    GenerateRequest,
    Notice,
    Request,
    RequestError,
)
from sensenova_cli.enhance.cache import Reply, find_reply, reply_key, store_reply
from sensenova_cli.enhance.instructions import instruction, question
from sensenova_cli.enhance.reply import clean_reply
from sensenova_cli.errors import EnhanceError
from sensenova_cli.render.turn_view import TurnView
from sensenova_cli.system.interrupts import Stop
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.model_source import ModelSource
from sensenova_cli.turns.tasks import PictureTask

ANSWER = TextSettings(max_tokens=700)
"""Settings with which the model that draws rewrites a prompt: greedy, so that the same prompt gets the same reply."""
WITHOUT = "draw your own words: `enhance=false`"
DEMO_KEEPS = "The demo cannot rewrite prompts, so yours stays as it is; `enhance_with` names another model for that"

Edit = Callable[[str], str]
"""Lets the user change a rewritten prompt before it is drawn; an empty result stands for the user's own prompt."""


class Enhancement:
    """Rewrites the prompts of one run.

    Args:
        card: the card of the model that draws.
        source: the model that draws.
        edit: lets the user change each new prompt; None without one.
    """

    def __init__(self, card: Card, source: ModelSource, view: TurnView, stop: Stop, edit: Edit | None = None) -> None:
        self._card = card
        self._source = source
        self._view = view
        self._stop = stop
        self._edit = edit
        self._has_noted_demo = False

    def questions(self, turns: Sequence[Turn]) -> list[Request]:
        """Return the requests with which the model that draws will be asked, so that memory is reserved for them."""
        return [_question(turn) for turn in turns if self._is_wanted(turn) and self._asks_this_model(turn)]

    def before_loading(self, turn: Turn) -> Turn:
        """Rewrite a turn's prompt if no model has to be loaded for it; errors as for `rewrite`."""
        if not self._is_wanted(turn):
            return turn
        if turn.settings.endpoint is None and self._card.recommended.world is not None:
            if not self._has_noted_demo:
                self._has_noted_demo = True
                self._view.notice(DEMO_KEEPS)
            return _with_prompt(turn, turn.prompt, None)
        reply = find_reply(self._key(turn))
        if reply is None:
            if self._asks_this_model(turn):
                return turn
            reply = self._ask(turn, lambda: self._ask_endpoint(turn))
        return self._use(turn, reply)

    def rewrite(self, turn: Turn, engine: Engine) -> Turn:
        """Return a turn whose prompt is rewritten, if its settings ask for that.

        Raises:
            EnhanceError: no model has rewritten the prompt.
            KeyboardInterrupt: a stop was requested, or the user has left the editing of the new prompt.
        """
        turn = self.before_loading(turn)
        if not self._is_wanted(turn):
            return turn
        return self._use(turn, self._ask(turn, lambda: self._ask_model(turn, engine)))

    def _ask(self, turn: Turn, ask: Callable[[], Reply]) -> Reply:
        """Ask for a reply, and store it."""
        endpoint = turn.settings.endpoint
        asked = _short(self._card.model) if endpoint is None else turn.settings.enhance_model or endpoint
        self._view.muted(f"{asked} rewrites the prompt …")
        with self._stop.listening(lambda: False):
            reply = ask()
        store_reply(self._key(turn), reply)
        return reply

    def _use(self, turn: Turn, reply: Reply) -> Turn:
        """Show a reply, let the user change it, and return the turn that draws it."""
        text = reply.text
        if self._edit is not None:
            text = self._edit(text).strip() or turn.prompt
        else:
            self._view.muted(f"new prompt: {text}")
        try:
            return _with_prompt(turn, text, reply.author)
        except RequestError as error:
            raise EnhanceError(f"the prompt was not rewritten: {error.what}", WITHOUT) from None

    def _ask_endpoint(self, turn: Turn) -> Reply:
        from sensenova_cli.enhance.endpoint import ask_endpoint  # imports an HTTP library

        task, url = cast(PictureTask, turn.task), turn.settings.endpoint
        assert url is not None
        return Reply(*ask_endpoint(url, turn.settings.enhance_model, task.kind, turn.prompt, self._stop.check))

    def _ask_model(self, turn: Turn, engine: Engine) -> Reply:
        answer = None
        try:
            with closing(cast("Generator[Event]", engine.run(_question(turn)))) as events:
                for event in events:
                    self._stop.check()
                    if isinstance(event, Notice):
                        self._view.notice(event.text)
                    if isinstance(event, Answer):
                        answer = event
            assert answer is not None  # without one, the engine raises an error
            text = clean_reply(answer.text, turn.prompt, is_cut=answer.finish == "length")
            return Reply(text, _short(self._card.model))
        except SenseNovaError as error:
            hint = f"{error.hint}, or {WITHOUT}" if error.hint else WITHOUT
            raise EnhanceError(f"the prompt was not rewritten: {error.what}", hint) from None

    def _is_wanted(self, turn: Turn) -> bool:
        return turn.settings.enhance and isinstance(turn.task, PictureTask) and not turn.task.keeps_prompt

    def _asks_this_model(self, turn: Turn) -> bool:
        return turn.settings.endpoint is None and self._card.recommended.world is None

    def _key(self, turn: Turn) -> str:
        task = cast(PictureTask, turn.task)
        endpoint = turn.settings.endpoint
        if endpoint is not None:
            author, pictures = f"{endpoint} {turn.settings.enhance_model or ''}", []
        else:
            loaded = self._source.loaded
            author = f"{self._card.model} {loaded.weights_file or ''} {loaded.lora or ''}"
            pictures = [each.source.sha256 for each in task.inputs]
        return reply_key(task.kind, turn.prompt, instruction(task.kind), author, pictures)


def _question(turn: Turn) -> AnswerRequest:
    """Return the request with which the model that draws rewrites a prompt. It sees the pictures of an edit.

    The instruction is part of the message: models follow it there, and some servers have no system messages.
    """
    task = cast(PictureTask, turn.task)
    images = tuple(each.image for each in task.inputs)
    seed = ImageSettings.part_of(turn.settings).seed
    return AnswerRequest(question(task.kind, turn.prompt), images, settings=ANSWER.model_copy(update={"seed": seed}))


def _with_prompt(turn: Turn, text: str, author: str | None) -> Turn:
    """Return a turn with another prompt, which is not rewritten again.

    Args:
        author: the model that wrote it; None if it is the user's.

    Raises:
        RequestError: it is not a prompt of such a picture.
    """
    task = cast(PictureTask, turn.task)
    request = cast("GenerateRequest | EditRequest", turn.request)
    rewritten = replace(
        task,
        prompt=replace(task.prompt, text=text),
        name=task.name or turn.prompt,  # files are named by the user's words
        keeps_prompt=True,
        original_prompt=turn.prompt,
        enhanced_by=author if text != turn.prompt else None,
    )
    return replace(turn, task=rewritten, request=replace(request, prompt=text))


def _short(model: str) -> str:
    return model.replace("\\", "/").rstrip("/").rpartition("/")[2] or model
