"""Servers for tests: on a fake engine in a thread of this process, and with the demo in a process of their own."""

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from config.settings import ServeSettings
from config.sources import read_layers
from model import LoadSettings
from sensenova_cli.serve.app import build_app
from sensenova_cli.serve.guard import Guard
from sensenova_cli.serve.scheduler import Scheduler
from sensenova_cli.serve.server import Server, listen
from sensenova_cli.serve.service import Service
from tests.cli.conftest import home  # noqa: F401  # a fixture
from tests.cli.fake_engine import FakeEngine
from tests.cli.harness import REPOSITORY
from tests.waiting import PATIENCE


@dataclass
class Served:
    """A running server on a fake engine.

    Attributes:
        gate: steps and tokens wait for it; it is open unless a test closes it.
        steps: steps and tokens so far.
    """

    url: str
    engine: FakeEngine
    service: Service
    server: Server
    gate: threading.Event = field(default_factory=threading.Event)
    steps: int = 0

    def client(self, **options: Any) -> httpx2.Client:
        """Return an HTTP client of this server, which no proxy of the environment redirects."""
        return httpx2.Client(base_url=self.url, trust_env=False, timeout=PATIENCE, **options)

    def metric(self, name: str) -> float:
        """Return one number of `/metrics`."""
        found = re.search(rf"^sensenova_{re.escape(name)} (\S+)$", self.client().get("/metrics").text, re.MULTILINE)
        assert found is not None
        return float(found[1])


Serve = Callable[..., Served]


@pytest.fixture
def serve(home: Path) -> Iterator[Serve]:  # noqa: F811
    """Start servers on fake engines; they end with the test."""
    stops: list[Callable[[], object]] = []

    def start(guard: Guard | None = None, open_model: Any = None, **settings: Any) -> Served:
        context = serving(home.parent / "checkpoint", guard or Guard(), open_model, **settings)
        served = context.__enter__()
        stops.append(lambda: context.__exit__(None, None, None))
        return served

    yield start
    for stop in stops:
        stop()


@pytest.fixture
def served(serve: Serve) -> Served:
    """A server on a fake engine, with default settings."""
    return serve()


@contextmanager
def serving(checkpoint: Path, guard: Guard, open_model: Any = None, **settings: Any) -> Iterator[Served]:
    """Run a server on a fake engine in a thread."""
    engine = FakeEngine(checkpoint)
    engine.predict = lambda longer_side: Image.new("RGB", (64, 64), (9, 9, 9))
    ready, ended = threading.Event(), threading.Event()
    started: list[Served] = []
    failures: list[BaseException] = []

    def run() -> None:
        async def main() -> None:
            layers = read_layers({"num_steps": "4"})
            scheduler = Scheduler(
                open_model or (lambda on_progress: engine), LoadSettings(model="demo"), serve_settings.max_queue
            )
            service = Service(serve_settings, layers, scheduler, "demo")
            server = Server(build_app(service, guard), scheduler)
            listener = listen("127.0.0.1", 0)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            started.append(Served(url, engine, service, server))
            if open_model is None:
                scheduler.on_ready = ready.set
            else:
                ready.set()
            await server.run_on(listener)

        try:
            asyncio.run(main())
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()
            ended.set()

    serve_settings = ServeSettings.model_validate(settings)
    threading.Thread(target=run, name="server", daemon=True).start()
    assert ready.wait(PATIENCE)
    if failures:
        raise failures[0]
    served = started[0]
    served.gate.set()

    def on_step(number: int) -> None:
        assert served.gate.wait(PATIENCE)
        served.steps += 1

    engine.on_step = on_step
    try:
        yield served
    finally:
        served.gate.set()
        served.server.should_exit = True
        with suppress(RuntimeError):  # the test has stopped the server
            served.server._loop.call_soon_threadsafe(served.server._drain)
        assert ended.wait(PATIENCE), "the server does not end"
    if failures:
        raise failures[0]


@dataclass
class Process:
    """`sensenova serve` in a process of its own."""

    url: str
    process: "subprocess.Popen[str]"
    messages: list[str]

    def client(self, **options: Any) -> httpx2.Client:
        """Return an HTTP client of this server."""
        return httpx2.Client(base_url=self.url, trust_env=False, timeout=PATIENCE, **options)


@contextmanager
def serve_process(folder: Path, *words: str, **environment: str) -> Iterator[Process]:
    """Run `sensenova serve` on a free port, and wait until it says where it is."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SENSENOVA_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "sensenova_cli", "serve", "--port", "0", *words],
        cwd=folder,
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env={
            **variables,
            "PYTHONPATH": str(REPOSITORY),
            "SENSENOVA_CONFIG_DIR": str(folder / "user"),
            "SENSENOVA_DATA_DIR": str(folder / "data"),
            "SENSENOVA_DTYPE": "float32",
            **environment,
        },
    )
    messages: list[str] = []
    address = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            messages.append(line)
            if line.startswith("serving "):
                address.set()
        address.set()

    threading.Thread(target=read, daemon=True).start()
    try:
        assert address.wait(PATIENCE)
        found = re.search(r"http://[^ ]+", messages[-1]) if messages else None
        assert found is not None, "".join(messages)
        yield Process(found[0], process, messages)
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@pytest.fixture(scope="session")
def demo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """`sensenova serve` with the demo in float32; shared by all tests of a process."""
    with serve_process(tmp_path_factory.mktemp("serve")) as process:
        yield process
