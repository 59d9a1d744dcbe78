"""Sinks of a session: pictures go into the session's folder, each finished turn into its log."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from config.settings import ImageSettings, SettingsGroup, TextSettings
from config.task_defaults import applying
from model import Answer, Event, Picture, PrefixRead, Statistics, TextPart, TextToken, ThinkText
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.replay import PictureKind
from sensenova_cli.render.spelling import as_session
from sensenova_cli.sessions.entries import AnswerText, AnswerTurn, InterleaveTurn, PictureTurn, SessionPicture
from sensenova_cli.sessions.session import Session
from sensenova_cli.turns.answer_parts import AnswerParts
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.model_source import ModelSource, model_name
from sensenova_cli.turns.record import picture_record
from sensenova_cli.turns.run_turn import Outcome, Sink
from sensenova_cli.turns.tasks import PictureTask


class _SessionSink(Sink):
    """A sink that logs its turn in the session.

    Args:
        source: the model.
        line_options: the flags at the end of the turn's line.
        inputs: numbers of the pictures that the turn is about.
    """

    def __init__(self, session: Session, source: ModelSource, line_options: Flags, inputs: Sequence[int]) -> None:
        self._session = session
        self._source = source
        self._line_options = line_options
        self._inputs = tuple(inputs)

    def _entry_fields(self, outcome: Outcome, *groups: type[SettingsGroup]) -> dict[str, Any]:
        """Return the fields that entries of all turns have; `groups` are the classes of the request's settings."""
        turn = self.turn
        names = dict.fromkeys(name for group in groups for name in group.model_fields)
        return {
            "turn": self._session.state.next_turn,
            "prompt": turn.prompt,
            "inputs": self._inputs,
            "settings": _plain(applying({name: getattr(turn.settings, name) for name in names}, turn.task.kind)),
            "model": model_name(self._source.loaded),
            "status": outcome.status,
            "reason": as_session(outcome.reason),
            "seconds": outcome.seconds,
        }

    def _store(self, picture: Picture) -> SessionPicture:
        """Write a picture into the session's folder, and number it."""
        return self._session.add_picture(
            picture.image,
            prompt=self.turn.name,
            seed=picture.settings.seed,
            record=picture_record(picture, self.turn, self._source.loaded),
        )

    def _lasting(self, pictures: Sequence[SessionPicture]) -> list[Path]:
        return [] if self._session.is_temporary else [self._session.path(each.number) for each in pictures]


class SessionPictureSink(_SessionSink):
    """Stores the pictures of a turn in the session, and logs the turn at its end.

    Args:
        on_picture: called with each stored picture and its file.
        Others as for the base class.

    Attributes:
        pictures: pictures of this turn that are stored so far.
    """

    def __init__(
        self,
        session: Session,
        kind: PictureKind,
        source: ModelSource,
        line_options: Flags,
        inputs: Sequence[int],
        on_picture: Callable[[SessionPicture, str], None],
    ) -> None:
        super().__init__(session, source, line_options, inputs)
        self._kind = kind
        self._on_picture = on_picture
        self.pictures: list[SessionPicture] = []
        self._think_text: str | None = None

    @property
    def files(self) -> Sequence[Path]:
        """The session's files of this turn's pictures; none in a session that is not saved."""
        return self._lasting(self.pictures)

    def take(self, event: Event) -> None:
        """Store a picture or a think text."""
        if isinstance(event, ThinkText):
            self._think_text = event.text
        if isinstance(event, Picture):
            picture = self._store(event)
            self.pictures.append(picture)
            self._on_picture(picture, str(self._session.path(picture.number)))

    def end(self, outcome: Outcome) -> None:
        """Log the turn."""
        task = self.turn.task
        assert isinstance(task, PictureTask)
        self._session.append(
            PictureTurn(
                kind=self._kind,
                original_prompt=task.original_prompt,
                enhanced_by=task.enhanced_by,
                typed=_replayable_options(self._line_options, self.turn),
                pictures=tuple(self.pictures),
                think_text=self._think_text,
                **self._entry_fields(outcome, ImageSettings),
            )
        )


class SessionAnswerSink(_SessionSink):
    """Logs a question when its turn ends, with the answer or the part of it that was written.

    Args:
        inputs: numbers of the pictures shown with the question.
        system: the system message.
        continues: whether the question follows the conversation so far.
        Others as for the base class.
    """

    def __init__(
        self,
        session: Session,
        kind: Literal["describe", "chat"],
        source: ModelSource,
        line_options: Flags,
        inputs: Sequence[int],
        *,
        system: str,
        continues: bool,
    ) -> None:
        super().__init__(session, source, line_options, inputs)
        self._kind = kind
        self._system = system
        self._continues = continues
        self._tokens: list[str] = []
        self._answer: Answer | None = None

    def take(self, event: Event) -> None:
        """Store the text of a token, or the answer."""
        if isinstance(event, TextToken):
            self._tokens.append(event.text)
        if isinstance(event, Answer):
            self._answer = event

    def end(self, outcome: Outcome) -> None:
        """Log the turn."""
        self._session.append(
            AnswerTurn(
                kind=self._kind,
                typed=_plain(self._line_options.settings),
                answer=self._answer.text if self._answer else "".join(self._tokens),
                finish=self._answer.finish if self._answer else None,
                system=self._system,
                continues=self._continues,
                **self._entry_fields(outcome, TextSettings),
            )
        )


class SessionInterleaveSink(_SessionSink):
    """Stores the pictures of an interleaved answer in the session, and logs the answer, or the part that was made.

    Args:
        on_picture: called with each stored picture and its file.
        follows: numbers of the earlier turns in the answer's conversation.
        Others as for the base class.

    Attributes:
        answer: the answer so far.
    """

    def __init__(
        self,
        session: Session,
        source: ModelSource,
        line_options: Flags,
        inputs: Sequence[int],
        on_picture: Callable[[SessionPicture, str], None],
        *,
        follows: Sequence[int],
    ) -> None:
        super().__init__(session, source, line_options, inputs)
        self._on_picture = on_picture
        self._follows = tuple(follows)
        self.answer: AnswerParts[SessionPicture] = AnswerParts()

    @property
    def files(self) -> Sequence[Path]:
        """The session's files of the answer's pictures; none in a session that is not saved."""
        return self._lasting(self.answer.pictures)

    def take(self, event: Event) -> None:
        """Store a picture or text."""
        if not isinstance(event, Picture):
            self.answer.take(event)
            return
        picture = self._store(event)
        self.answer.add_picture(picture)
        self._on_picture(picture, str(self._session.path(picture.number)))

    def end(self, outcome: Outcome) -> None:
        """Log the turn."""
        parts = self.answer.parts
        self._session.append(
            InterleaveTurn(
                kind="interleave",
                typed=_replayable_options(self._line_options, self.turn),
                parts=tuple(
                    AnswerText(text=part.text, thinking=part.thinking) if isinstance(part, TextPart) else part
                    for part in parts
                ),
                finish=self.answer.finish,
                follows=self._follows,
                **self._entry_fields(outcome, ImageSettings, TextSettings),
            )
        )


class MeasurementSink(Sink):
    """Stores the measurements of the last request, for `/stats`.

    Attributes:
        statistics: statistics of the last request; None before its end.
        prefix_tokens: length of the last request's prefixes.
        reused_tokens: the part of them that the prefix cache supplied.
        has_begun: whether a request has begun.
    """

    def __init__(self) -> None:
        self.statistics: Statistics | None = None
        self.has_begun = False
        self.prefix_tokens = self.reused_tokens = 0

    def begin(self, turn: Turn) -> None:
        """Begin a turn: drop the measurements of the one before."""
        super().begin(turn)
        self.has_begun = True
        self.statistics = None
        self.prefix_tokens = self.reused_tokens = 0

    def take(self, event: Event) -> None:
        """Store measurements."""
        if isinstance(event, PrefixRead):
            self.prefix_tokens += event.tokens
            self.reused_tokens += event.reused
        if isinstance(event, Statistics):
            self.statistics = event


def _replayable_options(line_options: Flags, turn: Turn) -> dict[str, Any]:
    """Return the settings that `/again` repeats: a line's flags, the settings of its profile, and the size if the line
    gives one side. `output` is left out, because a replay must not write to the same file."""
    options = {name: value for name, value in line_options.settings.items() if name != "output"}
    if line_options.width or line_options.height:
        options["size"] = turn.settings.size
    if line_options.profile:
        of_profile = (name for name, origin in turn.origins.items() if origin.startswith("profile "))
        options = {**{name: getattr(turn.settings, name) for name in of_profile}, **options}
    return _plain(options)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings as JSON values: tuples become lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
