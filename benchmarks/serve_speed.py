"""Compare the speed of a model behind `sensenova serve` with the same model in the same process and thread.

    python -m benchmarks.serve_speed --model FOLDER --output benchmarks/results/serve_speed_u1-8b_h100.json

The server's thread loads the model and measures its engine directly. Then a client measures the same requests over
HTTP, with the native event stream on loopback: seconds from the request to the first denoising step, seconds per step,
and tokens per second of an answer. A checkpoint of random weights (35 GB) is written by `python -m benchmarks.startup`.
Exits with 1 if a figure over HTTP is more than 2 % worse, or if the first step comes more than 30 ms later.
"""

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import harness
from benchmarks.harness import Bar
from benchmarks.serve_overhead import post, serving
from config.settings import ImageSettings, LoadSettings, TextSettings
from model import AnswerRequest, Engine, GenerateRequest, open_engine

PROMPT = "a picture of nothing in particular"
QUESTION = "Describe a city at night, its streets and its people, in as many words as you can."
BAR_RATIO = 1.02
BAR_MILLISECONDS = 30.0

Times = Callable[[dict[str, Any]], Iterator[tuple[str, float]]]
"""Runs a request in the form of the native API; yields the tag of each event, and the seconds since the request."""


def in_process(engine: Engine) -> Times:
    """Return the way to the model without a server."""

    def run(body: dict[str, Any]) -> Iterator[tuple[str, float]]:
        request: GenerateRequest | AnswerRequest
        if body["request"] == "generate":
            request = GenerateRequest(body["prompt"], ImageSettings(**body["settings"]))
        else:
            request = AnswerRequest(body["prompt"], settings=TextSettings(**body["settings"]))
        tags = {"DenoisingStep": "step", "TextToken": "token"}
        began = time.perf_counter()
        for event in engine.run(request):
            yield tags.get(type(event).__name__, ""), time.perf_counter() - began

    return run


def over_http(address: tuple[str, int]) -> Times:
    """Return the way through the server."""

    def run(body: dict[str, Any]) -> Iterator[tuple[str, float]]:
        began = time.perf_counter()
        with post(address, "/v1/sensenova/run", body) as response:
            for line in response:
                if line.startswith(b"event: "):
                    yield line[7:].strip().decode(), time.perf_counter() - began

    return run


def measure(times: Times, options: argparse.Namespace, where: str) -> dict[str, Any]:
    """Return the medians of all runs after the first one, which warms up."""
    settings = {"seed": 1, "size": options.size, "num_steps": options.steps}
    picture = {"request": "generate", "version": 1, "prompt": PROMPT, "settings": settings}
    answer = {
        "request": "answer",
        "version": 1,
        "prompt": QUESTION,
        "settings": {"seed": 1, "max_tokens": options.tokens},
    }
    first, step, rate = [], [], []
    for run in range(options.runs + 1):
        steps = [seconds for tag, seconds in times(picture) if tag == "step"]
        tokens = [seconds for tag, seconds in times(answer) if tag == "token"]
        if run:
            first.append(steps[0])
            step.append((steps[-1] - steps[0]) / (len(steps) - 1))
            if len(tokens) > 1:
                rate.append((len(tokens) - 1) / (tokens[-1] - tokens[0]))
            harness.progress(
                f"{where}, run {run} of {options.runs}: first step {first[-1]:.3f} s, then {step[-1]:.4f} s"
            )
    return {
        "first_step_seconds": statistics.median(first),
        "seconds_per_step": statistics.median(step),
        "tokens_per_second": statistics.median(rate) if rate else None,
        "runs": options.runs,
    }


def main() -> None:
    parser = harness.parser(__doc__, model="demo", models="folder or demo", device="auto", dtype="bfloat16")
    parser.add_argument("--quantization", default="off", choices=("off", "fp8", "fp8-all", "int8", "int8-all"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--size", default="2048x2048")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args()
    loaded = LoadSettings(
        model=options.model, device=options.device, dtype=options.dtype, quantization=options.quantization
    )
    direct: dict[str, Any] = {}
    device = ""

    def open_and_measure() -> Engine:
        nonlocal device
        engine = open_engine(loaded, size=options.size)
        device = str(getattr(engine, "device", "cpu")).partition(",")[0]
        direct.update(measure(in_process(engine), options, f"in {threading.current_thread().name}"))
        return engine

    with serving(open_and_measure, loaded) as address:
        served = measure(over_http(address), options, "over HTTP")
    late = 1000 * (served["first_step_seconds"] - direct["first_step_seconds"])
    bars = [
        Bar("first step over HTTP, later by", late, BAR_MILLISECONDS, "ms"),
        Bar("step over HTTP / in the process", served["seconds_per_step"] / direct["seconds_per_step"], BAR_RATIO, "×"),
    ]
    if direct["tokens_per_second"] and served["tokens_per_second"]:
        slower = direct["tokens_per_second"] / served["tokens_per_second"]
        bars.append(Bar("token over HTTP / in the process", slower, BAR_RATIO, "×"))
    result = {
        "model": options.model,
        "dtype": options.dtype,
        "quantization": options.quantization,
        "size": options.size,
        "steps": options.steps,
        "in_process": direct,
        "over_http": served,
    }
    harness.finish(options, result, harness.bars_table(bars), device)
    raise SystemExit(not all(bar.met for bar in bars))


if __name__ == "__main__":
    main()
