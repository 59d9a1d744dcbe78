"""Measure what `sensenova serve` adds to a request: one demo picture over HTTP against the engine in this process.

    OMP_NUM_THREADS=1 python -m benchmarks.serve_overhead --output benchmarks/results/serve-overhead.json

The server is a process of its own, so two models are loaded. Both make the same pictures in turn, and never at the same
time. Over HTTP, the clock runs from the start of the connection until the client has decoded the JSON and the base64 of
a PNG file. In this process, it runs from `engine.run` until the picture is encoded as the same PNG file, as the
command line does it. The overhead is the median of the differences of each pair. Then it measures the time from the
start of a connection to the first byte of a stream of the native API and of the Images API, while the server is idle.
Exits with 1 if a bar is missed, or if the two files of a pair differ.
"""

import argparse
import base64
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from benchmarks import harness
from benchmarks.harness import Bar
from config.settings import ImageSettings, LoadSettings
from model import Engine, GenerateRequest, Picture, open_engine
from sensenova_cli.outputs.picture_writer import encode_png
from sensenova_cli.outputs.png_metadata import read_record

PROMPT = "a red circle on a white background"
BAR_MILLISECONDS = 30.0
BAR_PERCENT = 5.0
BAR_FIRST_BYTE = 50.0


@contextmanager
def server(dtype: str) -> Iterator[tuple[str, int]]:
    """Run a server of the demo; its address and port."""
    with tempfile.TemporaryDirectory() as folder:
        own = {"SENSENOVA_CONFIG_DIR": folder, "SENSENOVA_DATA_DIR": folder, "SENSENOVA_DTYPE": dtype}
        process = subprocess.Popen(
            [sys.executable, "-m", "sensenova_cli", "serve", "--port", "0"],
            env={**os.environ, **own, "SENSENOVA_MODEL": "demo"},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        try:
            found = next(match for line in process.stderr if (match := re.search(r"http://([\d.]+):(\d+)", line)))
            yield found[1], int(found[2])
        finally:
            process.terminate()
            process.communicate()  # reads the rest of stderr, so that the server cannot wait for it


def over_http(address: tuple[str, int], settings: ImageSettings) -> tuple[float, bytes]:
    """Return the seconds of a picture over HTTP, and its file."""
    body = {"prompt": PROMPT, **settings.model_dump(mode="json", include={"seed", "size", "num_steps", "cfg_scale"})}
    began = time.perf_counter()
    with _post(address, "/v1/images/generations", body) as response:
        content = json.load(response)
    file = base64.b64decode(content["data"][0]["b64_json"])
    return time.perf_counter() - began, file


def in_process(engine: Engine, settings: ImageSettings, made: bytes) -> tuple[float, bytes]:
    """Return the seconds of a picture in this process, and its file.

    Args:
        made: the server's file; its record is written into this file, too.
    """
    record = read_record(made)
    began = time.perf_counter()
    picture = next(event for event in engine.run(GenerateRequest(PROMPT, settings)) if isinstance(event, Picture))
    file = encode_png(picture.image, record)
    return time.perf_counter() - began, file


def first_byte(address: tuple[str, int], path: str, body: dict[str, Any]) -> float:
    """Return the seconds to the first byte of a stream's content, on an idle server."""
    began = time.perf_counter()
    with _post(address, path, body) as response:
        response.read(1)
        seconds = time.perf_counter() - began
        while response.read(65536):
            pass
    return seconds


@contextmanager
def _post(address: tuple[str, int], path: str, body: dict[str, Any]) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(*address, timeout=300)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(response.read().decode())
        yield response
    finally:
        connection.close()


def measure(options: argparse.Namespace, address: tuple[str, int], engine: Engine) -> dict[str, Any]:
    """Return all figures."""
    pairs: list[tuple[float, float]] = []
    same = True
    for run in range(options.runs + 1):
        settings = ImageSettings(seed=run, size=options.size, num_steps=options.steps, cfg_scale=2.5)
        http_seconds, made = over_http(address, settings)
        local_seconds, file = in_process(engine, settings, made)
        same &= file == made
        if run:  # run 0 reads the prefix, which later runs reuse
            pairs.append((http_seconds, local_seconds))
            harness.progress(f"run {run} of {options.runs}: {http_seconds:.3f} s over HTTP, {local_seconds:.3f} s here")
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
    local = statistics.median(local for _, local in pairs)
    overhead = statistics.median(over - local for over, local in pairs)
    return {
        "picture": {
            "size": options.size,
            "num_steps": options.steps,
            "runs": options.runs,
            "same_files": same,
            "http_seconds": statistics.median(over for over, _ in pairs),
            "in_process_seconds": local,
            "overhead_milliseconds": 1000 * overhead,
            "overhead_percent": 100 * overhead / local,
            "pairs": pairs,
        },
        "first_byte_milliseconds": {name: statistics.median(values) for name, values in first.items()},
        "first_byte_milliseconds_longest": {name: max(values) for name, values in first.items()},
    }


def main() -> None:
    parser = harness.parser(__doc__, dtype="float32")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--steps", type=int, default=24)
    options = parser.parse_args()
    with (
        server(options.dtype) as address,
        closing(open_engine(LoadSettings(model="demo", device="cpu", dtype=options.dtype))) as engine,
    ):
        result = measure(options, address, engine)
    picture, first = result["picture"], result["first_byte_milliseconds"]
    bars = [
        Bar("overhead of a picture over HTTP", picture["overhead_milliseconds"], BAR_MILLISECONDS, "ms"),
        Bar("in parts of its time in this process", picture["overhead_percent"], BAR_PERCENT, "%"),
        *(Bar(f"first byte of a stream, {name}", first[name], BAR_FIRST_BYTE, "ms") for name in first),
    ]
    harness.finish(options, {"dtype": options.dtype, **result}, harness.bars_table(bars), "cpu")
    raise SystemExit(not (all(bar.met for bar in bars) and picture["same_files"]))


if __name__ == "__main__":
    main()
