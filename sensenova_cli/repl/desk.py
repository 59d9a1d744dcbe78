"""What a session works on: its state on disk, the resident model, and the turns that are made of both."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from config.errors import SenseNovaError
from config.load import Resolved
from config.schema import ImageSettings, Settings, TextSettings
from model.conversation import Conversation
from model.events import Answer, Event, Picture, PrefixRead, Statistics, TextToken, ThinkText
from model.requests import Request
from model.weights.builtin import DEMO_MODEL
from model.weights.named_lora import parse_loras
from sensenova_cli.again import Task
from sensenova_cli.errors import UsageError
from sensenova_cli.flags import Flags
from sensenova_cli.inputs import free_seed
from sensenova_cli.interrupts import Interrupts
from sensenova_cli.output import Output
from sensenova_cli.plan import PictureTask, plan_pictures
from sensenova_cli.prompts import Prompt
from sensenova_cli.render.stream import Renderer
from sensenova_cli.repl.loading import Loading
from sensenova_cli.repl.typed import merged
from sensenova_cli.sessions.entries import AnswerTurn, PictureTurn, SessionPicture
from sensenova_cli.sessions.session import Session
from sensenova_cli.spelling import as_session
from sensenova_cli.turn import picture_record, run_request

if TYPE_CHECKING:
    from model.engine import Engine
    from sensenova_cli.inputs import Input

Status = Literal["done", "failed", "cancelled"]


@dataclass
class _Ending:
    """How a request ended; its error is raised once that is noted."""

    status: Status
    reason: str
    seconds: float
    error: BaseException | None

    def finish(self) -> None:
        """Raise the error, if there is one, and let go of it: its frames hold what the request had in memory."""
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
        finally:
            del error


class Desk:
    """Makes turns: one request each, through the same engine, events and renderer as the one-shot commands.

    Args:
        session: where they are noted.
        start: the flags that the program was started with.
        made: told each finished picture with its file.
        system: system message of answers.
        interactive: whether answers are read on a screen.

    Attributes:
        statistics: of the last request, or None.
    """

    def __init__(
        self,
        session: Session,
        start: Flags,
        made: Callable[[SessionPicture, str], None],
        *,
        system: str,
        interactive: bool,
    ) -> None:
        self.session = session
        self.statistics: Statistics | None = None
        self.last_prefix: tuple[int, int] = (0, 0)
        """Tokens of the last request's prefixes, and those of them that were reused."""
        self._start = start
        self._made = made
        self._system = system
        self._interactive = interactive
        self.problem: SenseNovaError | None = None
        """Why the settings of a session that is continued cannot be used; every turn says so until they are mended."""
        try:
            resolved = self._merged(Flags({})).resolve()
        except SenseNovaError as problem:
            self.problem = problem
            resolved = start.resolve()
        self._loading = self._load(resolved)

    @property
    def loading(self) -> Loading:
        return self._loading

    @property
    def model(self) -> str:
        return self._loading.model

    @property
    def profile(self) -> str | None:
        """The profile that turns are made with, unless their line names another one."""
        return self._merged(Flags({})).profile

    def check(self, settings: Mapping[str, Any], profile: str | None) -> Resolved:
        """All settings as they would be if the session had these; errors as for Flags.resolve."""
        return merged(self._start, settings, profile, Flags({})).resolve(recommended=self._loading.recommended)

    def resolve(self) -> Resolved:
        """All settings of a turn whose line has no flags; errors as for Flags.resolve."""
        state = self.session.state
        return self.check(state.settings, state.profile)

    def use_model(self, model: str) -> None:
        """Let the model go, and load another one in the background."""
        self._start = replace(self._start, settings={**self._start.settings, "model": model})
        settings = self.resolve()
        self._loading.give_up()
        self._loading = self._load(settings, after=self._loading)

    def use_loras(self, text: str) -> None:
        """Have the model with these LoRAs, and no others, once it is loaded.

        Raises:
            SenseNovaError: one cannot be read or does not fit: all stays as it was.
            KeyboardInterrupt: the user did not want to wait for the model.
        """
        start = replace(self._start, settings={**self._start.settings, "lora": text})
        state = self.session.state
        flags = merged(start, state.settings, state.profile, Flags({}))
        settings = flags.resolve().settings
        engine = self._engine(self._renderer(flags))
        engine.use_loras(parse_loras(settings.lora))
        self._start = start
        self._loading.settings = settings

    def draw(self, task: Task, text: str, inputs: Sequence[int], line: Flags) -> None:
        """Make pictures, and take the first one in hand.

        Args:
            inputs: numbers of the pictures that are edited.

        Raises:
            SenseNovaError: the turn failed; it is noted all the same if it began.
            KeyboardInterrupt: it was cancelled, likewise.
        """
        pictures = tuple(self.session.read(number) for number in inputs)
        flags = self._with_free_seed(self._merged(line), pictures)
        work = PictureTask(task, Prompt(text), pictures)
        plan = plan_pictures(work, flags, self._loading.recommended)  # what is wrong is said before a long wait
        output = _output(plan.settings.output, plan.settings.num_images, line)
        renderer = self._renderer(flags)
        engine = self._engine(renderer)
        plan = plan_pictures(work, flags, engine.recommended)
        for notice in plan.notices:
            renderer.notice(notice)
        made: list[SessionPicture] = []
        think: list[str] = []

        def on_event(event: Event) -> None:
            if isinstance(event, ThinkText):
                think.append(event.text)
            if isinstance(event, Picture):
                loaded = self._loading.settings
                record = picture_record(event, plan, self.model, loaded) if plan.settings.metadata else None
                seed = event.settings.seed
                picture = self.session.add_picture(event.image, prompt=text, seed=seed, record=record)
                made.append(picture)
                if output is not None:
                    index, count = event.index, event.count
                    written = output.write(event.image, prompt=text, seed=seed, index=index, count=count, record=record)
                    renderer.notice(f"picture {picture.number} is in {written}, too")
                self._made(picture, str(self.session.path(picture.number)))
            self._count(event)

        with Interrupts():  # what was made is noted, whenever Ctrl-C comes
            ending = self._run(engine, plan.request, renderer, on_event)
            self.session.append(
                PictureTurn(
                    kind=task,
                    turn=self.session.state.next_turn,
                    prompt=text,
                    inputs=tuple(inputs),
                    typed=_typed(line, plan.settings, flags.resolve(recommended=engine.recommended).origins),
                    settings=_group(plan.settings, ImageSettings),
                    model=self.model,
                    status=ending.status,
                    reason=ending.reason,
                    seconds=ending.seconds,
                    pictures=tuple(made),
                    think_text=think[0] if think else None,
                )
            )
        ending.finish()

    def answer(
        self, task: Literal["describe", "chat"], text: str, images: Sequence[int], line: Flags, *, continues: bool
    ) -> None:
        """Answer a question; errors as for `draw`.

        Args:
            images: numbers of the pictures that are shown with it, besides those of the conversation.
            continues: whether it follows the conversation so far.
        """
        flags = self._merged(line)
        shown = tuple(self.session.read(number).image for number in images)
        renderer = self._renderer(flags)
        engine = self._engine(renderer)
        settings = flags.resolve(recommended=engine.recommended).settings
        text_settings = TextSettings.model_validate(_group(settings, TextSettings))
        conversation = self._conversation() if continues else Conversation(system=self._system)
        request = conversation.ask(text, shown, text_settings)
        written: list[str] = []
        answers: list[Answer] = []

        def on_event(event: Event) -> None:
            if isinstance(event, TextToken):
                written.append(event.text)
            if isinstance(event, Answer):
                answers.append(event)
            self._count(event)

        with Interrupts():
            ending = self._run(engine, request, renderer, on_event)
            self.session.append(
                AnswerTurn(
                    kind=task,
                    turn=self.session.state.next_turn,
                    prompt=text,
                    inputs=tuple(images),
                    typed=_plain(line.settings),
                    settings=_group(settings, TextSettings),
                    model=self.model,
                    status=ending.status,
                    reason=ending.reason,
                    seconds=ending.seconds,
                    answer=answers[0].text if answers else "".join(written),
                    finish=answers[0].finish if answers else None,
                    system=conversation.system,
                    continues=continues,
                )
            )
        ending.finish()

    def _with_free_seed(self, flags: Flags, pictures: Sequence["Input"]) -> Flags:
        """Edits that follow one another take the next seed each: the model collapses where it edits a picture with
        that one's own. A seed that was typed or set is left for the plan to check, and to talk about."""
        if "seed" in flags.settings or not pictures:
            return flags
        settings = flags.resolve(recommended=self._loading.recommended).settings
        taken = {picture.seed for picture in pictures if picture.seed is not None}
        seed = free_seed(settings.seed, settings.num_images, taken)
        return replace(flags, settings={**flags.settings, "seed": seed}) if seed != settings.seed else flags

    def _conversation(self) -> Conversation:
        """The conversation so far, its pictures read from the session."""
        answered = self.session.state.now.conversation
        conversation = Conversation(system=answered[0].system if answered else self._system)
        for each in answered:
            images = tuple(self.session.read(number).image for number in each.inputs)
            conversation = Conversation.after(conversation.ask(each.prompt, images), each.answer)
        return conversation

    def _run(
        self, engine: "Engine", request: Request, renderer: Renderer, on_event: Callable[[Event], None]
    ) -> _Ending:
        """Run a request to whatever end: what it made is noted in any case."""
        self.statistics = None
        self.last_prefix = (0, 0)
        began = time.perf_counter()
        status: Status = "done"
        reason = ""
        failure: BaseException | None = None
        try:
            run_request(engine, request, renderer, on_event)
        except KeyboardInterrupt as error:
            status, reason, failure = "cancelled", "interrupted", error
        except SenseNovaError as error:
            status, reason, failure = "failed", as_session(error.what), error
        except Exception as error:
            status, reason, failure = "failed", f"{type(error).__name__}: {error}", error
        return _Ending(status, reason, time.perf_counter() - began, failure)

    def _count(self, event: Event) -> None:
        if isinstance(event, PrefixRead):
            tokens, reused = self.last_prefix
            self.last_prefix = (tokens + event.tokens, reused + event.reused)
        if isinstance(event, Statistics):
            self.statistics = event

    def _merged(self, line: Flags) -> Flags:
        state = self.session.state
        return merged(self._start, state.settings, state.profile, line)

    def _renderer(self, flags: Flags) -> Renderer:
        settings = flags.resolve(recommended=self._loading.recommended).settings
        return Renderer(
            quiet=self._start.quiet,
            stream_answers=True,
            show_think=not (settings.hide_think or settings.print_think),
            print_think=settings.print_think,
            preview=settings.preview if self._interactive else "off",
            cache_summary=settings.enable_cache_dit_summary,
            show_each=False,
            spelling=as_session,
        )

    def _engine(self, renderer: Renderer) -> "Engine":
        """The model, waited for; one that could not be loaded before, or was lost, is tried once more."""
        if self._loading.has_failed:
            self._loading.give_up()
            self._loading = self._load(self.resolve())
        return self._loading.engine(renderer)

    def _load(self, resolved: Resolved, after: Loading | None = None) -> Loading:
        return Loading(resolved.settings.model or DEMO_MODEL, resolved.settings, after)


def _output(output: str | None, count: int, line: Flags) -> Output | None:
    """Where a line wants its pictures besides the session."""
    if not line.settings.get("output"):
        return None
    if output == "-":
        raise UsageError("a session's stdout is for paths and answers", "name a file with -o")
    return Output.plan(output, force=line.force, stdout_is_terminal=True, count=count)


def _typed(line: Flags, settings: Settings, origins: Mapping[str, str]) -> dict[str, Any]:
    """What a line asked for, to be asked for again: its flags, a size of which it named one side, its profile."""
    typed = {name: value for name, value in line.settings.items() if name != "output"}
    if line.width or line.height:
        typed["size"] = settings.size
    if line.profile:
        of_profile = (name for name, origin in origins.items() if origin.startswith("profile "))
        typed = {**{name: getattr(settings, name) for name in of_profile}, **typed}
    return _plain(typed)


def _group(settings: Any, group: type[Any]) -> dict[str, Any]:
    return {name: _json(getattr(settings, name)) for name in group.model_fields}


def _plain(settings: Any) -> dict[str, Any]:
    return {name: _json(value) for name, value in settings.items()}


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
