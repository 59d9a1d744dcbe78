"""Start of a server: the model's thread, the application and the messages for the operator."""

import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from config.settings import LoadSettings, ServeSettings
from config.sources import Layers
from config.units import count_of
from model import Engine, parse_loras, remove_note, write_note
from sensenova_cli.render.progress import ProgressView
from sensenova_cli.render.turn_view import TurnView
from sensenova_cli.serve.app import build_app
from sensenova_cli.serve.errors import ApiError
from sensenova_cli.serve.guard import Guard
from sensenova_cli.serve.jobs import Job
from sensenova_cli.serve.scheduler import LoadingState, Scheduler, public_names
from sensenova_cli.serve.server import Server
from sensenova_cli.serve.service import Service, served_name
from sensenova_cli.system.interpreter import freeze_loaded
from sensenova_cli.system.unicode import printable
from sensenova_cli.turns.model_source import ModelOnDemand, model_name


@dataclass(frozen=True)
class Announcement:
    """The facts for the line that shows the operator how the server is protected."""

    has_key: bool
    key_file: str | None
    only_this_machine: bool

    def text(self, name: str, url: str) -> str:
        """Return the line, with a command that makes a picture."""
        who = "for this machine only" if self.only_this_machine else "for all machines that can connect"
        key = "with a key" if self.has_key else "WITHOUT A KEY" if not self.only_this_machine else "without a key"
        key_file = shlex.quote(str(Path(self.key_file).expanduser())) if self.key_file else ""
        secret = f"$(cat {key_file})" if key_file else "$SENSENOVA_SERVE_API_KEY"
        header = f' -H "Authorization: Bearer {secret}"' if self.has_key else ""
        body = '{"prompt": "a red circle", "response_format": "url"}'
        curl = f"curl{header} -H 'Content-Type: application/json' -d '{body}' {url}/v1/images/generations"
        return f"serving {name} at {url} {who}, {key}; try: {curl}"


async def run_server(
    settings: ServeSettings,
    layers: Layers,
    guard: Guard,
    listener: socket.socket,
    announcement: Announcement,
    *,
    quiet: bool,
) -> BaseException | None:
    """Serve until a signal ends the server. Return the error if the model could not be loaded."""
    load = layers.load
    name = served_name(settings, model_name(load))
    view = _LoadingView(quiet=quiet)
    scheduler = Scheduler(_opener(settings, layers, view), _public(load), settings.max_queue)
    service = Service(settings, layers, scheduler, name)

    def refused(address: str, error: ApiError) -> None:
        view.muted(f"{time.strftime('%H:%M:%S')} {address}: refused, {error.status} {error.code}")

    server = Server(build_app(service, guard, refused), scheduler)
    url = _url(listener)

    def announce() -> None:
        if scheduler.state == "ready":
            _leave_note(view, url, guard.key)
            view.notice_line(announcement.text(name, url))

    scheduler.on_ready = announce
    forget = scheduler.on_finished

    def finished(job: Job) -> None:
        forget(job)
        if job.error is not None:
            job.error.is_logged = True
        view.muted(_summary(job))

    scheduler.on_finished = finished

    def stopping() -> None:
        remove_note()  # the server no longer accepts connections
        running = " after the running request" if scheduler.running is not None else ""
        view.muted(f"stopping{running}; a second signal ends at once")

    server.on_stopping = stopping
    try:
        await server.run_on(listener)
    finally:
        remove_note()
    return scheduler.failure


def _leave_note(view: TurnView, url: str, key: str | None) -> None:
    """Leave the note by which `--server local` finds this server; show a notice if it cannot be written."""
    try:
        write_note(url, key)
    except OSError as error:
        view.notice(f"`server=local` will not find this server: its note cannot be written ({error.strerror})")


def _opener(
    settings: ServeSettings, layers: Layers, view: "_LoadingView"
) -> Callable[[Callable[[LoadingState], None]], Engine]:
    """Return the function that loads the model in the model's thread."""
    size = str(layers.values.get("size", "auto"))

    def open_model(on_progress: Callable[[LoadingState], None]) -> Engine:
        view.on_progress = on_progress
        engine = ModelOnDemand(layers.load, size).open((), view)
        if settings.warmup:
            began = time.perf_counter()
            on_progress(LoadingState())
            engine.warm_up(size)
            if time.perf_counter() - began > 1:
                view.muted(f"warmed up in {time.perf_counter() - began:.1f} s")
        freeze_loaded()
        return engine

    return open_model


class _LoadingView(TurnView):
    """A view that also reports the progress of loading to the server, whose clients ask for it."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(quiet=quiet)
        self.on_progress: Callable[[LoadingState], None] = lambda state: None

    def notice_line(self, text: str) -> None:
        """Print the line that says where the server is, also if the view is quiet."""
        print(printable(text), file=sys.stderr, flush=True)

    @contextmanager
    def bytes_progress(self, title: str) -> Iterator[ProgressView]:
        """Show a bar, and report the same numbers."""
        with super().bytes_progress(title) as bar:
            self.on_progress(LoadingState())
            yield _Reporting(bar, self.on_progress)


class _Reporting:
    """A progress view that reports to two places."""

    def __init__(self, bar: ProgressView, on_progress: Callable[[LoadingState], None]) -> None:
        self._bar = bar
        self._on_progress = on_progress

    def update(self, done: int, total: int) -> None:
        """Report the bytes so far."""
        self._bar.update(done, total)
        self._on_progress(LoadingState(done, total))

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def _public(load: LoadSettings) -> LoadSettings:
    """Return load settings without folders of this machine, because other people read them in records of pictures."""
    model = model_name(load)
    if Path(model).expanduser().exists():
        model = Path(model).expanduser().absolute().name
    weights = Path(load.weights_file).name if load.weights_file else None
    return load.model_copy(update={"model": model, "weights": weights, "lora": public_names(parse_loras(load.lora))})


def _summary(job: Job) -> str:
    """Return a line for the log. It contains nothing of prompts and pictures."""
    task, settings = job.turn.task.kind, job.turn.settings
    size = f" {settings.size}, {count_of(settings.num_steps, 'step')}" if task in ("generate", "edit") else ""
    reason = f": {job.error.code}" if job.error is not None else ""
    return f"{time.strftime('%H:%M:%S')} {job.id} {task}{size}: {job.status}{reason} after {job.seconds:.1f} s"


def _url(listener: socket.socket) -> str:
    """Return the server's address. If it listens on all addresses, this is one that works on this machine."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
