"""Sinks of a session: what a turn makes goes into the session's folder, and how it ended into its log."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from config.settings import ImageSettings, LoadSettings, SettingsGroup, TextSettings
from model import Answer, Event, Picture, TextToken, ThinkText
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.replay import PictureKind
from sensenova_cli.render.spelling import as_session
from sensenova_cli.sessions.entries import AnswerTurn, PictureTurn, SessionPicture
from sensenova_cli.sessions.session import Session
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.model_source import model_name
from sensenova_cli.turns.one_shot_sinks import optional_record
from sensenova_cli.turns.run_turn import Outcome


class SessionPictureSink:
    """Keeps the pictures of a turn in the session, and notes the turn when it has ended.

    Args:
        loaded: the settings that the model is loaded with.
        line: flags that were typed with this turn.
        inputs: numbers of the pictures that are edited.
        made: called with each picture of the session and its file.

    Attributes:
        pictures: those of this turn that the session has got so far.
    """

    def __init__(
        self,
        session: Session,
        kind: PictureKind,
        loaded: LoadSettings,
        line: Flags,
        inputs: Sequence[int],
        made: Callable[[SessionPicture, str], None],
    ) -> None:
        self._session = session
        self._kind = kind
        self._loaded = loaded
        self._line = line
        self._inputs = tuple(inputs)
        self._made = made
        self.pictures: list[SessionPicture] = []
        self._think_text: str | None = None
        self._turn: Turn

    def begin(self, turn: Turn) -> None:
        """As `Sink.begin`."""
        self._turn = turn

    def take(self, event: Event) -> None:
        """Keep a picture or a think text."""
        if isinstance(event, ThinkText):
            self._think_text = event.text
        if isinstance(event, Picture):
            picture = self._session.add_picture(
                event.image,
                prompt=self._turn.prompt,
                seed=event.settings.seed,
                record=optional_record(event, self._turn, self._loaded),
            )
            self.pictures.append(picture)
            self._made(picture, str(self._session.path(picture.number)))

    def end(self, outcome: Outcome) -> None:
        """Note the turn."""
        turn = self._turn
        self._session.append(
            PictureTurn(
                kind=self._kind,
                turn=self._session.state.next_turn,
                prompt=turn.prompt,
                inputs=self._inputs,
                typed=_typed(self._line, turn),
                settings=_group(turn, ImageSettings),
                model=model_name(self._loaded),
                status=outcome.status,
                reason=as_session(outcome.reason),
                seconds=outcome.seconds,
                pictures=tuple(self.pictures),
                think_text=self._think_text,
            )
        )


class SessionAnswerSink:
    """Notes a question and its answer, as far as it was written, when the turn has ended.

    Args:
        images: numbers of the pictures shown with the question.
        continues: whether it follows the conversation so far.
        Others as for `SessionPictureSink`.
    """

    def __init__(
        self,
        session: Session,
        kind: Literal["describe", "chat"],
        loaded: LoadSettings,
        line: Flags,
        images: Sequence[int],
        *,
        system: str,
        continues: bool,
    ) -> None:
        self._session = session
        self._kind = kind
        self._loaded = loaded
        self._line = line
        self._images = tuple(images)
        self._system = system
        self._continues = continues
        self._written: list[str] = []
        self._answer: Answer | None = None
        self._turn: Turn

    def begin(self, turn: Turn) -> None:
        """As `Sink.begin`."""
        self._turn = turn

    def take(self, event: Event) -> None:
        """Keep the text that is written."""
        if isinstance(event, TextToken):
            self._written.append(event.text)
        if isinstance(event, Answer):
            self._answer = event

    def end(self, outcome: Outcome) -> None:
        """Note the turn."""
        self._session.append(
            AnswerTurn(
                kind=self._kind,
                turn=self._session.state.next_turn,
                prompt=self._turn.prompt,
                inputs=self._images,
                typed=_plain(self._line.settings),
                settings=_group(self._turn, TextSettings),
                model=model_name(self._loaded),
                status=outcome.status,
                reason=as_session(outcome.reason),
                seconds=outcome.seconds,
                answer=self._answer.text if self._answer else "".join(self._written),
                finish=self._answer.finish if self._answer else None,
                system=self._system,
                continues=self._continues,
            )
        )


def _typed(line: Flags, turn: Turn) -> dict[str, Any]:
    """What a line asked for, to be asked for again: its flags, a size of which it named one side, its profile."""
    typed = {name: value for name, value in line.settings.items() if name != "output"}
    if line.width or line.height:
        typed["size"] = turn.settings.size
    if line.profile:
        of_profile = (name for name, origin in turn.origins.items() if origin.startswith("profile "))
        typed = {**{name: getattr(turn.settings, name) for name in of_profile}, **typed}
    return _plain(typed)


def _group(turn: Turn, group: type[SettingsGroup]) -> dict[str, Any]:
    return _plain({name: getattr(turn.settings, name) for name in group.model_fields})


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has it: lists for tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
