"""The sink that writes the log. It is the last one, so that a turn is logged after its files are written."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from config.settings import RECORDED_LOAD_SETTINGS, ImageSettings, LoadSettings, SettingsGroup, TextSettings
from config.sources import Layers
from config.task_defaults import applying
from model import Answer, Event, InterleavedAnswer, Picture, TextPart, TextToken, format_loras, parse_loras
from sensenova_cli.errors import LogError
from sensenova_cli.log.entries import LogEntry, describe_files
from sensenova_cli.log.store import PATIENCE, Log
from sensenova_cli.outputs.picture_record import recorded_model, recorded_weights
from sensenova_cli.render.turn_view import TurnView
from sensenova_cli.sessions.session import Session
from sensenova_cli.system.streams import CLIPBOARD, STDIN
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.model_source import ModelSource, model_name
from sensenova_cli.turns.run_turn import Outcome, Sink
from sensenova_cli.turns.tasks import AnswerTask, InterleaveTask, PictureTask

OpenSinks = Callable[[Sequence[Turn]], Sequence[Sink]]
MAX_WAITING = 1000
"""Most entries that wait in memory for a locked log."""


def logged(
    open_sinks: OpenSinks, layers: Layers, source: ModelSource, view: TurnView, session: Session | None = None
) -> OpenSinks:
    """Return `open_sinks` with the sink that writes the log, unless the setting `log` is off.

    Args:
        session: the session that the turns belong to; None for a one-shot command.
    """
    if not layers.output.log:
        return open_sinks

    def open_with_log(turns: Sequence[Turn]) -> Sequence[Sink]:
        sinks = open_sinks(turns)
        return [*sinks, LogSink(sinks, layers.load, source, view, session)]

    return open_with_log


class LogSink(Sink):
    """Writes each turn to the log when it ends.

    A log that cannot be written costs a notice, never a result. If another process has locked the log, its entries wait
    for the end of the next turn.

    Args:
        sinks: the sinks whose files are logged.
        load: the load settings, of which a server's address is logged.
        source: the model.
        session: as for `logged`.
    """

    def __init__(
        self, sinks: Sequence[Sink], load: LoadSettings, source: ModelSource, view: TurnView, session: Session | None
    ) -> None:
        self._sinks = sinks
        self._load = load
        self._source = source
        self._view = view
        self._session = session
        self._waiting: list[LogEntry] = []
        self._has_failed = False

    def begin(self, turn: Turn) -> None:
        """Begin a turn with no text and no picture."""
        super().begin(turn)
        self._time = datetime.now(UTC)
        self._texts: list[str] = []
        self._size = ""

    def take(self, event: Event) -> None:
        """Collect text, and note the size of a picture."""
        match event:
            case TextToken():
                self._texts.append(event.text)
            case Answer():
                self._texts = [event.text]
            case InterleavedAnswer():
                parts = (part for part in event.parts if isinstance(part, TextPart) and not part.thinking)
                self._texts = [part.text for part in parts]
            case Picture():
                self._size = event.settings.size

    def end(self, outcome: Outcome) -> None:
        """Write the turn, and the turns that wait."""
        # The first failure waits for the other process. Later ones must not delay the next pictures again.
        patience = 0.0 if self._has_failed else PATIENCE
        self._waiting = [*self._waiting, self._entry(outcome)][-MAX_WAITING:]
        try:
            Log(self._view.notice).append(self._waiting, patience)
        except LogError as error:
            if not self._has_failed:
                self._view.notice(f"not logged: {error.what}")
            self._has_failed = True
        else:
            self._waiting = []

    def _entry(self, outcome: Outcome) -> LogEntry:
        turn, task = self.turn, self.turn.task
        loaded = _with_absolute_paths(self._source.loaded)
        groups: tuple[type[SettingsGroup], ...] = (TextSettings,) if isinstance(task, AnswerTask) else (ImageSettings,)
        if isinstance(task, InterleaveTask):
            groups = (ImageSettings, TextSettings)
        settings = {name: value for group in groups for name, value in group.changed_in(turn.settings).items()}
        settings = applying(settings, task.kind)
        if not isinstance(task, AnswerTask):
            known = {"size": self._size or turn.settings.size, "seed": turn.settings.seed}  # also if they are defaults
            settings = known | settings | known
        kept = {
            name: value for name, value in LoadSettings.changed_in(loaded).items() if name in RECORDED_LOAD_SETTINGS
        }
        if self._load.is_remote:
            kept["server"] = self._load.server
        session = self._session
        return LogEntry(
            task=task.kind,
            prompt=turn.prompt,
            status=outcome.status,
            reason=outcome.reason,
            seconds=outcome.seconds,
            model=model_name(loaded),
            settings=settings,
            loaded=kept,
            inputs=_inputs(turn),
            files=describe_files([path for sink in self._sinks for path in sink.files]),
            answer="".join(self._texts),
            original=(task.original_prompt or "") if isinstance(task, PictureTask) and task.enhanced_by else "",
            system=task.conversation.system if isinstance(task, AnswerTask) else getattr(task, "system", None),
            earlier=0 if not isinstance(task, AnswerTask | InterleaveTask) else len(task.conversation.turns),
            session=(session.name or "") if session is not None and not session.is_temporary else "",
            time=self._time,
        )


def _with_absolute_paths(loaded: LoadSettings) -> LoadSettings:
    """Return load settings that another current folder does not change."""
    model = None if loaded.model is None else recorded_model(loaded.model)
    files = {"weights": recorded_weights(loaded.weights), "lora": format_loras(parse_loras(loaded.lora))}
    return loaded.model_copy(update={"model": model, **files})


def _inputs(turn: Turn) -> tuple[str, ...]:
    """Return the absolute paths of the input pictures. Standard input and the clipboard keep their names."""
    task = turn.task
    names = task.image_files if isinstance(task, AnswerTask) else [each.source.path for each in task.inputs]
    places = (STDIN, CLIPBOARD)
    return tuple(name if name in places else str(Path(name).expanduser().absolute()) for name in names)
