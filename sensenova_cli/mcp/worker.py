"""The thread that has loaded the model, and runs one call after the other."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from config.settings import LoadSettings
from config.sources import Layers
from model import Answer, Card, DenoisingStep, Engine, Event, Picture, Request, TextToken, ThinkToken, Waiting
from sensenova_cli.outputs.picture_names import PictureForm
from sensenova_cli.outputs.picture_writer import PictureWriter
from sensenova_cli.render.progress import ProgressView
from sensenova_cli.render.turn_view import TurnView
from sensenova_cli.system.interrupts import Stop
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.model_source import ModelOnDemand
from sensenova_cli.turns.one_shot_sinks import PictureFileSink
from sensenova_cli.turns.run_turn import Frontend, Sink, run_turns
from sensenova_cli.turns.tasks import PictureTask, Task


@dataclass(frozen=True)
class Progress:
    """A step of a call's progress.

    Attributes:
        done: loading the model counts as 1, and each denoising step or token as 1.
        total: None while it is not known.
    """

    done: float
    total: float | None
    message: str


@dataclass
class Result:
    """The result of a call.

    Attributes:
        pictures: pictures with their files; None if they are not written.
        text: the answer of a question.
        prompt: the prompt that was drawn.
        notices: notes for the client.
    """

    pictures: list[tuple[Picture, Path | None]] = field(default_factory=list)
    text: str = ""
    prompt: str = ""
    notices: list[str] = field(default_factory=list)


class Worker:
    """Runs the calls of one server.

    Args:
        layers: the user's settings.
        output: template of the files of pictures.
    """

    def __init__(self, layers: Layers, output: str) -> None:
        self._layers = layers
        self._output = output
        self._model = _KeptModel(layers.load)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._stops: set[Stop] = set()
        self._lock = threading.Lock()

    def submit(self, task: Task, stop: Stop, on_progress: Callable[[Progress], None]) -> "Future[Result]":
        """Run a task after those before it.

        Args:
            stop: ends it between two steps or tokens, or before it begins.
            on_progress: called on the worker's thread.
        """
        with self._lock:
            self._stops.add(stop)
        return self._thread.submit(self._run, task, stop, on_progress)

    def close(self) -> None:
        """Stop all calls, and free the model when the running one has ended."""
        with self._lock:
            for stop in self._stops:
                stop.request()
        self._thread.submit(self._model.close)
        self._thread.shutdown(wait=True)

    def _run(self, task: Task, stop: Stop, on_progress: Callable[[Progress], None]) -> Result:
        try:
            stop.check()
            result = Result()
            view = _CallView(result, stop, on_progress)

            def open_sinks(turns: Sequence[Turn]) -> list[Sink]:
                result.prompt = turns[0].prompt
                collector = _Collector(result, turns[0], on_progress)
                if not isinstance(task, PictureTask):
                    return [collector]
                count = turns[0].settings.num_images
                output = self._layers.output
                writer = PictureWriter.prepare(
                    self._output,
                    stdout_is_terminal=True,
                    count=count,
                    form=PictureForm(output.format, output.quality),
                    note=view.notice,
                )

                def report(picture: Picture, path: Path | None, turn: Turn, seconds: float) -> None:
                    result.pictures.append((picture, path))
                    result.prompt = turn.prompt

                return [PictureFileSink(writer, self._model, count, 0, report), collector]

            run_turns([task], self._layers, self._model, Frontend(view, open_sinks, stop))
            return result
        finally:
            with self._lock:
                self._stops.discard(stop)


class _KeptModel:
    """A `ModelSource` that loads the model for the first call and keeps it. A lost engine is opened again."""

    def __init__(self, settings: LoadSettings) -> None:
        self._settings = settings
        self._source = ModelOnDemand(settings)
        self._engine: Engine | None = None

    @property
    def loaded(self) -> LoadSettings:
        """See `ModelSource`."""
        return self._source.loaded

    def card(self, view: TurnView) -> Card:
        """See `ModelSource`."""
        self._drop_lost()
        return self._engine.card if self._engine is not None else self._source.card(view)

    def open(self, requests: Sequence[Request], view: TurnView) -> Engine:
        """See `ModelSource`."""
        self._drop_lost()
        if self._engine is None:
            self._engine = self._source.open(requests, view)
        return self._engine

    def close(self) -> None:
        """Free the model."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _drop_lost(self) -> None:
        if self._engine is not None and self._engine.is_lost:
            with suppress(Exception):  # it is broken already
                self.close()
            self._source = ModelOnDemand(self._settings)


class _CallView(TurnView):
    """The view of a call. It keeps notices for the client, and reports the progress of loading."""

    def __init__(self, result: Result, stop: Stop, on_progress: Callable[[Progress], None]) -> None:
        super().__init__(quiet=True)
        self._result = result
        self._stop = stop
        self._on_progress = on_progress

    def notice(self, text: str) -> None:
        """Keep a notice for the client."""
        if text not in self._result.notices:
            self._result.notices.append(text.replace("`", ""))

    @contextmanager
    def bytes_progress(self, title: str) -> Iterator[ProgressView]:
        """Report how much of the model is loaded."""
        yield _Loading(title, self._stop, self._on_progress)


class _Loading:
    """The progress of loading, as the first part of a call."""

    def __init__(self, title: str, stop: Stop, on_progress: Callable[[Progress], None]) -> None:
        self._title = title
        self._stop = stop
        self._on_progress = on_progress
        self._before = -1

    def update(self, done: int, total: int) -> None:
        """Report each percent; a call that was cancelled stops loading."""
        self._stop.check()
        percent = 100 * done // max(total, 1)
        if percent != self._before:
            self._before = percent
            self._on_progress(Progress(percent / 100, None, f"{self._title}: {percent} %"))

    def close(self) -> None:
        """End the report."""


class _Collector(Sink):
    """Collects the answer, and reports the progress of a call."""

    def __init__(self, result: Result, turn: Turn, on_progress: Callable[[Progress], None]) -> None:
        self._result = result
        self._on_progress = on_progress
        settings = turn.settings
        draws = isinstance(turn.task, PictureTask)
        self._total = 1 + (settings.num_images * settings.num_steps if draws else settings.max_tokens)
        self._tokens = 0

    def take(self, event: Event) -> None:
        """Report a step or a token, or keep the answer."""
        match event:
            case DenoisingStep():
                done = 1 + event.index * event.steps + event.step
                of = f" of picture {event.index + 1}/{event.count}" if event.count > 1 else ""
                self._on_progress(Progress(done, self._total, f"step {event.step}/{event.steps}{of}"))
            case TextToken():
                self._tokens += 1
                self._on_progress(Progress(1 + self._tokens, self._total, "writing"))
            case ThinkToken():
                self._tokens += 1  # thinking comes before the steps, so it takes a part of the first unit
                self._on_progress(Progress(2 - 1 / (1 + self._tokens), self._total, "thinking"))
            case Waiting(position=position) if position:
                self._on_progress(Progress(0, self._total, f"waiting: {position} in the server's queue"))
            case Answer():
                self._result.text = event.text
