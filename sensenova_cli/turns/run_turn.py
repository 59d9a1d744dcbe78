"""The one path that every turn takes: prepare the turns, open the model, run each request, store the results."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from config.errors import SenseNovaError
from config.settings import RECORDED_LOAD_SETTINGS
from config.sources import Layers
from model import CARD, Card, Engine, Event, process_timings
from sensenova_cli.render.turn_view import TurnView
from sensenova_cli.system.interrupts import Stop
from sensenova_cli.system.streams import StdoutError
from sensenova_cli.turns.build_request import Previews, Turn, build_turn, numbered
from sensenova_cli.turns.enhancement import Edit, Enhancement
from sensenova_cli.turns.model_source import ModelSource
from sensenova_cli.turns.tasks import AnswerTask, Task


@dataclass(frozen=True)
class Outcome:
    """The end of a turn.

    Attributes:
        reason: why the turn did not finish; empty for `done`.
        seconds: time from the start of the request to its end.
    """

    status: Literal["done", "failed", "cancelled"]
    reason: str
    seconds: float


class Sink:
    """A consumer that stores results of turns: in files, as JSON lines, in a session. This base class stores nothing.

    Attributes:
        turn: the turn that is running.
        started: value of `time.perf_counter` when it began.
    """

    turn: Turn
    started: float

    @property
    def files(self) -> Sequence[Path]:
        """The files that this sink has written in the running turn."""
        return ()

    def begin(self, turn: Turn) -> None:
        """Begin a turn: the following events belong to it."""
        self.turn = turn
        self.started = time.perf_counter()

    def take(self, event: Event) -> None:
        """Store the content of an event. The engine waits until this returns."""

    def end(self, outcome: Outcome) -> None:
        """End the turn, also after a failure. `take` has received all results until then."""


class Course:
    """The course of a run of several turns. This base class runs all turns, and ends the run at the first error."""

    def begin(self, turns: Sequence[Turn], card: Card) -> Sequence[Turn]:
        """Return the turns to run. With none, the model is not opened."""
        return turns

    def failed(self, turn: Turn, error: Exception) -> None:
        """Take note of a failed turn. An exception ends the run.

        Raises:
            SenseNovaError: the run must end.
        """
        raise error

    def end(self) -> None:
        """End the run after its last turn.

        Raises:
            SenseNovaError: some turns have failed.
        """


@dataclass(frozen=True)
class Frontend:
    """The parts of a turn that differ between one-shot commands, sessions and servers.

    Attributes:
        view: shows progress, text and pictures.
        open_sinks: returns the sinks for the prepared turns. It runs before the model is opened, so that a place that
            cannot be written is found before weights are downloaded.
        stop: checked after every event.
        course: chooses the turns to run, and decides whether a run goes on after an error.
        edit: lets the user change a prompt that a model has rewritten, before it is drawn; None for no chance to.
    """

    view: TurnView
    open_sinks: Callable[[Sequence[Turn]], Sequence[Sink]]
    stop: Stop
    course: Course = field(default_factory=Course)
    edit: Edit | None = None


def run_turns(tasks: Sequence[Task], layers: Layers, model: ModelSource, frontend: Frontend) -> None:
    """Prepare all tasks, open the model once, and run one turn after the other. Works on any thread.

    Raises:
        SenseNovaError: of any kind; see sensenova_cli.errors.exit_code.
        KeyboardInterrupt: a stop was requested, and the turn ended between two events.
    """
    view = frontend.view
    process_timings.restart(CARD)
    with process_timings.phase(CARD):
        card = model.card(view)
        previews = Previews(*view.preview_request())
        turns = numbered(build_turn(task, layers, card.recommended, previews) for task in tasks)
        turns = list(frontend.course.begin(turns, card))
    if not turns:
        return
    with view.signals.run():
        sinks = frontend.open_sinks(turns)
        for warning in dict.fromkeys(
            warning for turn in turns for warning in (*turn.warnings, *_differences(turn, card))
        ):
            view.notice(warning)
        enhancement = Enhancement(card, model, view, frontend.stop, frontend.edit)
        # An endpoint that cannot be reached is found before weights are loaded.
        turns[0] = enhancement.before_loading(turns[0])
        engine = model.open([*(turn.request for turn in turns), *enhancement.questions(turns)], view)
        view.expect([turn.request for turn in turns])
        for number, turn in enumerate(turns):
            view.begin_item(number)
            try:
                run_turn(engine, enhancement.rewrite(turn, engine), view, sinks, frontend.stop)
            except (BrokenPipeError, StdoutError):
                raise  # no later result could be printed either
            except Exception as error:
                frontend.course.failed(turn, error)
        frontend.course.end()
        view.end_run()


def run_turn(engine: Engine, turn: Turn, view: TurnView, sinks: Sequence[Sink], stop: Stop) -> None:
    """Run one request: show every event, then give it to the sinks. In the end, call their `end` even after an error.

    Raises:
        KeyboardInterrupt: a stop was requested. The sinks still received the event during which it was requested.
        SenseNovaError: an error of the engine or of a sink.
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
            has_failed = failure is not None
            del failure  # its frames refer to the request's tensors
            # Neither a signal at this moment nor the failure of one sink may lose results of the others.
            with stop.shielding(), ExitStack() as ends:
                for sink in reversed(sinks):
                    ends.callback(_end, sink, outcome, view, has_failed)


def _end(sink: Sink, outcome: Outcome, view: TurnView, has_failed: bool) -> None:
    """End a sink. After a failure, whose message may say where a picture was saved, a second error is a notice."""
    try:
        sink.end(outcome)
    except SenseNovaError as error:
        if not has_failed:
            raise
        view.notice(error.what)


def _run(engine: Engine, turn: Turn, view: TurnView, sinks: Sequence[Sink], stop: Stop) -> None:
    events = engine.run(turn.request)
    if engine.card.loaded is not None:  # it is on a server, and only the server's own process knows more phases
        events = process_timings.measure_answer(events)
    stream = cast("Generator[Event]", events)
    try:
        with view.showing(turn.request), closing(stream):
            for event in stream:
                view.event(event)
                for sink in sinks:
                    sink.take(event)
                stop.check()
                view.after_sinks(event)
                if turn.ends_with(event):
                    break
    except KeyboardInterrupt:
        if engine.cancel_notice:
            view.notice(engine.cancel_notice)
        raise


def _differences(turn: Turn, card: Card) -> list[str]:
    """Return warnings about a replay on a server that has loaded another model than the one that made the picture."""
    replay = None if isinstance(turn.task, AnswerTask) else turn.task.replay
    if replay is None or card.loaded is None:
        return []
    made, there = replay.record.loaded, card.loaded
    # A server of another kind names only its model, and so do records of its pictures.
    known = there.model_fields_set & ({"model"} if replay.record.made_by else set(RECORDED_LOAD_SETTINGS))
    names = [name for name in RECORDED_LOAD_SETTINGS if name in known and getattr(made, name) != getattr(there, name)]
    if not names:
        return []
    differing = ", ".join(f"{name} {getattr(made, name)} there {getattr(there, name)}" for name in names)
    return [f"{replay.file} was made differently, so the new picture will differ: {differing}"]


def _outcome(failure: BaseException | None, seconds: float) -> Outcome:
    if failure is None:
        return Outcome("done", "", seconds)
    if isinstance(failure, KeyboardInterrupt):
        return Outcome("cancelled", "interrupted", seconds)
    if isinstance(failure, BrokenPipeError):
        return Outcome("cancelled", "the reader of stdout has ended", seconds)
    if isinstance(failure, SenseNovaError):
        return Outcome("failed", failure.what, seconds)
    return Outcome("failed", f"{type(failure).__name__}: {failure}", seconds)
