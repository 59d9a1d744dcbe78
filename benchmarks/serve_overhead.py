"""Measure what `sensenova serve` adds to a request: one demo picture over HTTP against the engine in this process.

    OMP_NUM_THREADS=1 python -m benchmarks.serve_overhead --output benchmarks/results/serve-overhead.json

The server runs in a thread of this process, and both sides use the same loaded model, one after the other, so that they
differ in the way to the model only. Over HTTP, the clock runs from the start of the connection until the client has
decoded the JSON and the base64 of a PNG file. In-process, it runs from `engine.run` until the picture is encoded as a
PNG file, as the command line does it. The overhead is the median of the differences of all pairs. The processor
time of the whole process is given too, because other programs on the machine disturb it less.

The same is measured with an engine that repeats the events of one run at once. That shows the cost of the way alone,
without the noise of 1.8 seconds of computation.

Then it measures the time from the start of a connection to the first byte of a stream, while the server is idle. Exits
with 1 if a bar is missed, or if the two pictures of a pair differ.
"""

import argparse
import asyncio
import base64
import http.client
import io
import json
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from benchmarks import harness
from benchmarks.harness import Bar
from config.settings import ImageSettings, LoadSettings, ServeSettings
from config.sources import read_layers
from model import Card, Engine, Event, GenerateRequest, NamedLora, Picture, Request, open_engine
from sensenova_cli.outputs.picture_files import read_record
from sensenova_cli.outputs.picture_writer import encode_png
from sensenova_cli.serve.app import build_app
from sensenova_cli.serve.guard import Guard
from sensenova_cli.serve.scheduler import Scheduler
from sensenova_cli.serve.server import Server, listen
from sensenova_cli.serve.service import Service

PROMPT = "a red circle on a white background"
BAR_MILLISECONDS = 30.0
BAR_PERCENT = 5.0
BAR_FIRST_BYTE = 50.0


class Replay(Engine):
    """An engine that repeats the events of one request without computing anything."""

    def __init__(self, engine: Engine, request: GenerateRequest) -> None:
        self._engine = engine
        self._events = list(engine.run(request))

    def run(self, request: Request) -> Iterator[Event]:
        """Yield the events."""
        yield from self._events

    def close(self) -> None:
        """Keep the engine: its owner closes it."""

    def use_loras(self, loras: Sequence[NamedLora]) -> None:
        """Do nothing, because no request names a LoRA."""

    @property
    def loras(self) -> tuple[NamedLora, ...]:
        """The merged LoRAs."""
        return self._engine.loras

    @property
    def card(self) -> Card:
        """The card of the model."""
        return self._engine.card

    @property
    def description(self) -> str:
        """Number format and device."""
        return self._engine.description

    @property
    def is_lost(self) -> bool:
        """Whether a process of the model was lost."""
        return False


@contextmanager
def serving(open_model: Callable[[], Engine], loaded: LoadSettings) -> Iterator[tuple[str, int]]:
    """Serve an engine in a thread; the server's address and port.

    Args:
        open_model: returns the engine. It runs in the thread that will run the engine.
    """
    listener = listen("127.0.0.1", 0)
    started = threading.Event()
    servers: list[Server] = []

    async def serve() -> None:
        scheduler = Scheduler(lambda on_progress: open_model(), loaded, max_queue=16)
        scheduler.on_ready = started.set
        service = Service(ServeSettings(), read_layers({}), scheduler, "demo")
        servers.append(Server(build_app(service, Guard()), scheduler))
        await servers[0].run_on(listener)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="server")
    thread.start()
    started.wait()
    try:
        yield listener.getsockname()[:2]
    finally:
        servers[0].handle_exit(signal.SIGTERM, None)
        thread.join()


@dataclass(frozen=True)
class Seconds:
    """Time of one picture: on the clock, and of the processor."""

    wall: float
    cpu: float


def over_http(address: tuple[str, int], settings: ImageSettings) -> tuple[Seconds, bytes]:
    """Return the time of a picture over HTTP, and its file."""
    body = {"prompt": PROMPT, **settings.model_dump(mode="json", include={"seed", "size", "num_steps", "cfg_scale"})}
    began, cpu = time.perf_counter(), time.process_time()
    with post(address, "/v1/images/generations", body) as response:
        content = json.load(response)
    file = base64.b64decode(content["data"][0]["b64_json"])
    return Seconds(time.perf_counter() - began, time.process_time() - cpu), file


def in_process(engine: Engine, settings: ImageSettings, made: bytes) -> tuple[Seconds, bytes]:
    """Return the time of a picture in this process, and its file.

    Args:
        made: a file of the server; its record is written into this file, so that both have the same length.
    """
    record = read_record(made) if made else None
    began, cpu = time.perf_counter(), time.process_time()
    picture = next(event for event in engine.run(GenerateRequest(PROMPT, settings)) if isinstance(event, Picture))
    file = encode_png(picture.image, record)
    return Seconds(time.perf_counter() - began, time.process_time() - cpu), file


def _pixels(file: bytes) -> bytes:
    with Image.open(io.BytesIO(file)) as image:
        return image.tobytes()


def first_byte(address: tuple[str, int], path: str, body: dict[str, Any]) -> float:
    """Return the seconds to the first byte of a stream's content, on an idle server."""
    began = time.perf_counter()
    with post(address, path, body) as response:
        response.read(1)
        seconds = time.perf_counter() - began
        while response.read(65536):
            pass
    return seconds


@contextmanager
def post(address: tuple[str, int], path: str, body: dict[str, Any]) -> Iterator[http.client.HTTPResponse]:
    """Send JSON, and open the answer.

    Raises:
        RuntimeError: the server answered with an error.
    """
    connection = http.client.HTTPConnection(*address, timeout=300)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(response.read().decode())
        yield response
    finally:
        connection.close()


def measure_pictures(
    options: argparse.Namespace, address: tuple[str, int], engine: Engine, runs: int
) -> dict[str, Any]:
    """Return the figures of pictures."""
    pairs: list[tuple[Seconds, Seconds]] = []
    same, made = True, b""
    for run in range(runs + 1):
        settings = ImageSettings(seed=run, size=options.size, num_steps=options.steps, cfg_scale=2.5)
        if run % 2:  # the order alternates, because the second one finds another state of the caches
            remote, made = over_http(address, settings)
            local, file = in_process(engine, settings, made)
        else:
            local, file = in_process(engine, settings, made)
            remote, made = over_http(address, settings)
        same &= _pixels(file) == _pixels(made)
        if run:  # run 0 reads the prefix, which later runs reuse
            pairs.append((remote, local))
            harness.progress(f"run {run} of {runs}: {remote.wall:.3f} s over HTTP, {local.wall:.3f} s here")
    here = statistics.median(local.wall for _, local in pairs)
    overhead = statistics.median(remote.wall - local.wall for remote, local in pairs)
    return {
        "size": options.size,
        "num_steps": options.steps,
        "runs": runs,
        "same_pictures": same,
        "http_seconds": statistics.median(remote.wall for remote, _ in pairs),
        "in_process_seconds": here,
        "overhead_milliseconds": 1000 * overhead,
        "overhead_percent": 100 * overhead / here,
        "overhead_cpu_milliseconds": 1000 * statistics.median(remote.cpu - local.cpu for remote, local in pairs),
        "pairs": [[round(remote.wall, 4), round(local.wall, 4)] for remote, local in pairs[:40]],
    }


def measure_streams(options: argparse.Namespace, address: tuple[str, int]) -> dict[str, Any]:
    """Return the times to the first byte of streams."""
    small = {"size": "128x128", "num_steps": 2, "seed": 1}
    streams: dict[str, tuple[str, dict[str, Any]]] = {
        "native": ("/v1/sensenova/run", {"request": "generate", "prompt": PROMPT, "settings": small}),
        "images": ("/v1/images/generations", {"prompt": PROMPT, **small, "stream": True, "partial_images": 1}),
        "chat": (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "What is a cat?"}], "stream": True, "max_tokens": 4},
        ),
    }
    first: dict[str, list[float]] = {name: [] for name in streams}
    for run in range(options.runs + 1):
        for name, (path, body) in streams.items():
            time.sleep(0.05)  # the server finishes its request after the last byte
            seconds = first_byte(address, path, body)
            if run:
                first[name].append(1000 * seconds)
    return {
        "median_milliseconds": {name: statistics.median(values) for name, values in first.items()},
        "longest_milliseconds": {name: max(values) for name, values in first.items()},
    }


def main() -> None:
    parser = harness.parser(__doc__, dtype="float32")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--steps", type=int, default=24)
    options = parser.parse_args()
    loaded = LoadSettings(model="demo", device="cpu", dtype=options.dtype)
    engine = open_engine(loaded)
    with serving(lambda: engine, loaded) as address:
        picture = measure_pictures(options, address, engine, options.runs)
        streams = measure_streams(options, address)
    settings = ImageSettings(seed=0, size=options.size, num_steps=options.steps, cfg_scale=2.5)
    replay = Replay(engine, GenerateRequest(PROMPT, settings))
    with serving(lambda: replay, loaded) as address:
        replayed = measure_pictures(options, address, replay, 10 * options.runs)
    first = streams["median_milliseconds"]
    bars = [
        Bar("overhead of a picture over HTTP", picture["overhead_milliseconds"], BAR_MILLISECONDS, "ms"),
        Bar("in parts of its time in this process", picture["overhead_percent"], BAR_PERCENT, "%"),
        Bar("overhead without the computation", replayed["overhead_milliseconds"], BAR_MILLISECONDS, "ms"),
        *(Bar(f"first byte of a stream, {name}", first[name], BAR_FIRST_BYTE, "ms") for name in first),
    ]
    result = {"dtype": options.dtype, "picture": picture, "replayed": replayed, "first_byte": streams}
    harness.finish(options, result, harness.bars_table(bars), "cpu")
    raise SystemExit(not (all(bar.met for bar in bars) and picture["same_pictures"] and replayed["same_pictures"]))


if __name__ == "__main__":
    main()
