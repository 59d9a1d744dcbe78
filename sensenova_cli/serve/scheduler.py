"""The queue of jobs, and the thread that loads the model and runs one job at a time.

The model is loaded and run in one thread, because CUDA graphs and rank processes belong to it. All other state belongs
to the event loop's thread, so it needs no locks: the model's thread reports everything by `call_soon_threadsafe`.
"""

import asyncio
import queue
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from config.errors import SenseNovaError
from config.settings import LoadSettings
from model import Card, Engine, Event, NamedLora, Picture, Statistics
from sensenova_cli.outputs.picture_record import PictureRecord
from sensenova_cli.outputs.picture_writer import encode_png
from sensenova_cli.render.turn_view import TurnView
from sensenova_cli.serve.errors import ApiError, api_error, unavailable
from sensenova_cli.serve.jobs import FinishedPicture, Job, Position
from sensenova_cli.system.unicode import printable
from sensenova_cli.turns.model_source import loaded_settings
from sensenova_cli.turns.record import picture_record
from sensenova_cli.turns.run_turn import Sink, run_turn

State = Literal["loading", "ready", "failed", "stopping"]


@dataclass(frozen=True)
class LoadingState:
    """Progress of loading: the bytes so far, and of the whole model; `total` is 0 while it is not known."""

    done: int = 0
    total: int = 0


OpenModel = Callable[[Callable[[LoadingState], None]], Engine]
"""Loads the model, warms it up and returns it. Its argument is called with the progress."""


@dataclass
class Counters:
    """Numbers of jobs by their end, and of their work, since the start, for the metrics."""

    done: int = 0
    failed: int = 0
    cancelled: int = 0
    refused: int = 0
    pictures: int = 0
    tokens: int = 0
    steps: int = 0
    busy_seconds: float = 0.0
    queue_seconds: float = 0.0


class Scheduler:
    """Runs jobs one after the other. All methods belong to the event loop's thread.

    Attributes:
        state: `loading`, `ready`, `failed` (the model cannot be loaded) or `stopping`.
        loading: progress while it is loading.
        failure: the error of loading the model; None without one.
        engine: the model when it is ready. Only its thread may run it.
        card: the model's card as it was loaded, before clients chose LoRAs.
        running: the job that runs now.
        counters: numbers for the metrics.
        on_ready: called when the model is loaded, and when loading has failed.
        on_finished: called with each job that has ended.
    """

    def __init__(self, open_model: OpenModel, loaded: LoadSettings, max_queue: int) -> None:
        """Prepare the queue; `start` begins loading.

        Args:
            loaded: the load settings for the records of pictures; without folders of this machine.
            max_queue: maximum number of jobs that wait.
        """
        self.state: State = "loading"
        self.loading = LoadingState()
        self.failure: BaseException | None = None
        self.engine: Engine | None = None
        self.card: Card | None = None
        self.running: Job | None = None
        self.counters = Counters()
        self.on_ready: Callable[[], None] = lambda: None
        self.on_finished: Callable[[Job], None] = lambda job: None
        self._open_model = open_model
        self._loaded = loaded
        self._max_queue = max_queue
        self._waiting: deque[Job] = deque()
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._encoders = ThreadPoolExecutor(1, thread_name_prefix="png")

    @property
    def public_settings(self) -> LoadSettings:
        """The settings that the model was loaded with, without folders of this machine."""
        return self._loaded if self.engine is None else loaded_settings(self._loaded, self.engine)

    @property
    def waiting(self) -> Sequence[Job]:
        """The jobs that wait, the next one first."""
        return tuple(self._waiting)

    def start(self) -> None:
        """Start the thread, which begins to load the model."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Put a job into the queue, or start it.

        Raises:
            ApiError: the queue is full, or the model is not ready.
        """
        self.require_room()
        self._waiting.append(job)
        self._publish_positions()
        self._start_next()

    def require_room(self) -> None:
        """Raise ApiError unless a job can be submitted now. Callers also check this before they decode pictures."""
        self.require_ready()
        if self.running is not None and len(self._waiting) >= self._max_queue:
            self.counters.refused += 1
            raise unavailable(f"{len(self._waiting)} requests are waiting already", "queue_full", "try again later")

    def require_ready(self) -> None:
        """Raise ApiError unless the model is ready."""
        if self.state == "loading":
            done, total = self.loading.done, self.loading.total
            percent = f": {100 * done // total} %" if total else ""
            raise unavailable(f"the model is loading{percent}", "loading", "try again later, or watch /health")
        if self.state == "stopping":
            raise unavailable("the server is stopping", "stopping")
        if self.state == "failed":
            raise _not_loaded()

    def cancel(self, job: Job) -> None:
        """Stop a job: a waiting one at once, a running one after its current step or token."""
        if job.is_finished:
            return
        job.stop.request()
        if job in self._waiting:
            self._waiting.remove(job)
            self._end(job, "cancelled")
            self._publish_positions()

    def drain(self) -> None:
        """Refuse new jobs, end the waiting ones with an error, and let the running one finish."""
        if self.state != "failed":
            self.state = "stopping"
        self._end_waiting(unavailable("the server is stopping", "stopping"))

    def close(self) -> None:
        """End the model's thread, which frees the model. No job may run after that."""
        self._inbox.put(None)
        if self.engine is not None:  # a thread that is still loading 35 GB ends with the process
            self._thread.join()
            self._encoders.shutdown(wait=True)

    def _start_next(self) -> None:
        if self.running is not None or not self._waiting or self.state != "ready":
            return
        job = self._waiting.popleft()
        self.running, job.status = job, "running"
        self.counters.queue_seconds += job.seconds
        job.publish(Position(0))
        self._publish_positions()
        self._inbox.put(job)

    def _publish_positions(self) -> None:
        for position, job in enumerate(self._waiting, start=1):
            if job.position != position and (self.running is not None or position > 1):
                job.publish(Position(position))

    def _end(self, job: Job, status: Literal["done", "failed", "cancelled"], error: ApiError | None = None) -> None:
        job.finish(status, error)
        setattr(self.counters, status, getattr(self.counters, status) + 1)
        self.on_finished(job)
        job.free_request()

    def _end_waiting(self, error: ApiError) -> None:
        while self._waiting:
            job = self._waiting.popleft()
            job.stop.request()
            self._end(job, "failed", error)

    # The rest of the class runs in the model's thread, except for the functions that `_call` passes to the loop.

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        # RuntimeError: the loop has ended while the model was loading, so nobody needs the call.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _work(self) -> None:
        while (engine := self._open()) is not None:
            while not engine.is_lost:
                job = self._inbox.get()
                if job is None:
                    engine.close()
                    return
                self._run(engine, job)
            self._call(self._reload)
            with suppress(Exception):  # it is broken already
                engine.close()
            del engine  # its memory is needed for the new one

    def _open(self) -> Engine | None:
        threading.current_thread().name = "loading"  # a program that ends meanwhile does not wait for this thread
        try:
            engine = self._open_model(lambda progress: self._call(setattr, self, "loading", progress))
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # the frames refer to the weights that were read
            self._call(self._fail, error)
            return None
        threading.current_thread().name = "model"
        self._call(self._become_ready, engine)
        return engine

    def _run(self, engine: Engine, job: Job) -> None:
        failure: BaseException | None = None
        began = time.perf_counter()
        try:
            if job.loras is not None and job.loras != engine.loras:
                engine.use_loras(job.loras)
            sink = _JobSink(self, job, loaded_settings(self._loaded, engine), engine.loras)
            run_turn(engine, job.turn, TurnView(quiet=True), [sink], job.stop)
        except BaseException as error:
            failure = error
            if isinstance(error, SenseNovaError):
                if api_error(error).status >= 500:
                    print(f"{job.id}: {printable(error.what)}", file=sys.stderr, flush=True)
            elif not isinstance(error, KeyboardInterrupt):
                # The operator needs the cause. A traceback shows code, not prompts or pictures.
                traceback.print_exception(error, file=sys.stderr)
            traceback.clear_frames(error.__traceback__)  # the frames refer to the request's tensors
        self._call(self._finish_running, job, failure, time.perf_counter() - began)

    def _become_ready(self, engine: Engine) -> None:
        self.engine, self.card = engine, engine.card
        if self.state == "loading":
            self.state = "ready"
        self.on_ready()
        self._start_next()

    def _fail(self, error: BaseException) -> None:
        self.state, self.failure = "failed", error
        if self.running is not None:  # the model was loaded again for it
            self._end(self.running, "failed", _not_loaded())
            self.running = None
        self._end_waiting(_not_loaded())
        self.on_ready()

    def _reload(self) -> None:
        """Return to loading, because a process of the model was lost."""
        self.engine = None
        if self.state == "ready":
            self.state, self.loading = "loading", LoadingState()

    def _finish_running(self, job: Job, failure: BaseException | None, seconds: float) -> None:
        self.running = None
        self.counters.busy_seconds += seconds
        if failure is None:
            self._end(job, "done")
        elif isinstance(failure, KeyboardInterrupt):
            self._end(job, "cancelled")
        else:
            self._end(job, "failed", api_error(failure))
        self._start_next()

    def _publish(self, job: Job, event: Event) -> None:
        if isinstance(event, Statistics):
            self.counters.steps += event.steps
            self.counters.tokens += event.new_tokens
        job.publish(event)

    def _encode(self, job: Job, picture: Picture, record: PictureRecord | None) -> "Future[bytes]":
        """Encode a picture on another thread, and publish it."""
        file = self._encoders.submit(encode_png, picture.image, record)
        self._call(self._publish_picture, job, replace(picture, image=Image.new("RGB", (1, 1))), record, file)
        return file

    def _publish_picture(self, job: Job, picture: Picture, record: PictureRecord | None, file: "Future[bytes]") -> None:
        self.counters.pictures += 1
        job.publish(FinishedPicture(picture, record, asyncio.wrap_future(file)))


class _JobSink(Sink):
    """Passes the events of a turn to the event loop."""

    def __init__(self, scheduler: Scheduler, job: Job, loaded: LoadSettings, loras: Sequence[NamedLora]) -> None:
        self._scheduler = scheduler
        self._job = job
        self._loaded = loaded
        self._loras = loras
        self._files: list[Future[bytes]] = []

    def take(self, event: Event) -> None:
        """Publish an event; a picture with its record."""
        if isinstance(event, Picture):
            record = public_record(picture_record(event, self.turn, LoadSettings()), self._loaded, self._loras)
            wait(self._files)  # otherwise pictures pile up if encoding is slower than drawing
            self._files = [self._scheduler._encode(self._job, event, record)]
        else:
            self._scheduler._call(self._scheduler._publish, self._job, event)


def _not_loaded() -> ApiError:
    return unavailable("the model could not be loaded", "not_loaded", "the server's log says why")


def public_record(
    record: PictureRecord | None, loaded: LoadSettings, loras: Sequence[NamedLora]
) -> PictureRecord | None:
    """Return a record that names no folder of this machine.

    Args:
        loaded: load settings without folders.
        loras: the merged LoRAs; the record names their files without folders.
    """
    if record is None:
        return None
    return record.model_copy(update={"loaded": loaded.model_copy(update={"lora": public_names(loras)})})


def public_names(loras: Sequence[NamedLora]) -> str | None:
    """Return LoRAs as a value of the setting `lora`, by the names of their files without folders; None without any."""
    return ", ".join(str(replace(lora, name=Path(lora.name).name)) for lora in loras) or None
