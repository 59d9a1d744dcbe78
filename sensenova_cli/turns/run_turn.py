"""The one road for every face: prepare the turns, open the model, run each request, record what it made."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, Protocol, cast

from config.errors import SenseNovaError
from config.sources import Layers
from model import Engine, Event
from sensenova_cli.render.turn_view import TurnView
from sensenova_cli.system.interrupts import Stop
from sensenova_cli.turns.build_request import Previews, Turn, build_turn
from sensenova_cli.turns.model_source import ModelSource
from sensenova_cli.turns.tasks import Task


@dataclass(frozen=True)
class Outcome:
    """How a turn ended.

    Attributes:
        reason: why it did not come to its end; empty for `done`.
        seconds: from the request to its end.
    """

    status: Literal["done", "failed", "cancelled"]
    reason: str
    seconds: float


class Sink(Protocol):
    """Keeps what turns make: files, JSON lines, a session on disk."""

    def begin(self, turn: Turn) -> None:
        """The following events belong to this turn."""

    def take(self, event: Event) -> None:
        """Keep what an event brings, before the next one is asked for."""

    def end(self, outcome: Outcome) -> None:
        """The turn has ended, however it did. What was made until then was taken."""


@dataclass(frozen=True)
class Frontend:
    """The parts of a turn that differ between one-shots, sessions and servers.

    Attributes:
        view: shows progress, text and pictures.
        open_sinks: gives the sinks of the prepared turns. It is called before the model is opened, so that a place
            that cannot be written is found before weights are fetched.
        stop: asked after every event whether to stop.
    """

    view: TurnView
    open_sinks: Callable[[Sequence[Turn]], Sequence[Sink]]
    stop: Stop


def run_turns(tasks: Sequence[Task], layers: Layers, model: ModelSource, face: Frontend) -> None:
    """Prepare all tasks, open the model once, and run one turn after the other.

    Works on any thread.

    Raises:
        SenseNovaError: of any kind; see sensenova_cli.errors.exit_code.
        KeyboardInterrupt: the stop signal came, and the turn was ended between two events.
    """
    recommended = model.card(face.view).recommended
    previews = Previews(*face.view.preview_request())
    turns = [build_turn(task, layers, recommended, previews) for task in tasks]
    sinks = face.open_sinks(turns)
    for warning in dict.fromkeys(warning for turn in turns for warning in turn.warnings):
        face.view.notice(warning)
    engine = model.open([turn.request for turn in turns], face.view)
    for turn in turns:
        run_turn(engine, turn, face.view, sinks, face.stop)


def run_turn(engine: Engine, turn: Turn, view: TurnView, sinks: Sequence[Sink], stop: Stop) -> None:
    """Run one request: every event is shown, then given to the sinks; they learn in any case how it ended.

    Raises:
        KeyboardInterrupt: the stop signal came; the event during which it came was still dealt with.
        SenseNovaError: whatever the engine or a sink raises.
    """
    began = time.perf_counter()
    with stop.listening(lambda: view.is_live):
        for sink in sinks:
            sink.begin(turn)
        failure = None
        try:
            _run(engine, turn, view, sinks, stop)
        except BaseException as error:
            failure = error
            raise
        finally:
            outcome = _outcome(failure, time.perf_counter() - began)
            del failure  # its frames hold what the request had in memory
            with stop.shielding():  # what was made is recorded, whenever a signal comes
                for sink in sinks:
                    sink.end(outcome)


def _run(engine: Engine, turn: Turn, view: TurnView, sinks: Sequence[Sink], stop: Stop) -> None:
    stream = cast("Generator[Event]", engine.run(turn.request))
    with view.showing(turn.request), closing(stream) as events:
        for event in events:
            view.event(event)
            for sink in sinks:
                sink.take(event)
            stop.check()
            view.dealt_with(event)


def _outcome(failure: BaseException | None, seconds: float) -> Outcome:
    if failure is None:
        return Outcome("done", "", seconds)
    if isinstance(failure, KeyboardInterrupt):
        return Outcome("cancelled", "interrupted", seconds)
    if isinstance(failure, SenseNovaError):
        return Outcome("failed", failure.what, seconds)
    return Outcome("failed", f"{type(failure).__name__}: {failure}", seconds)
