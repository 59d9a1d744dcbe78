"""Measure interleaved answers of an 8B model with random weights: six pictures, 600 tokens of text.

    python -m benchmarks.interleave --output benchmarks/results/interleave_u1-8b_h100.json

The text is given, so that the answers have the same pictures at the same places every time. One answer has 50 steps a
picture with guidance, another one 8 steps without guidance in fp8. A short answer before each of them compiles the
kernels. Exits with 1 if a bar is not met.
"""

import argparse
import gc
import statistics
from dataclasses import asdict
from typing import Any

from benchmarks import harness
from benchmarks.harness import Bar
from config.settings import ImageSettings, LoadSettings
from model.backends.select import select_backend
from model.bench.bench import shape_config
from model.bench.interleave import AnswerTimes, ScriptedAnswer
from model.checkpoint.quantization import quantize_network, resolve_quantization
from model.checkpoint.random_weights import random_network
from model.devices import peak_memory, reset_peak_memory, resolve_device, resolve_dtype, return_free_memory

ANSWERS: dict[str, tuple[dict[str, Any], str, float]] = {
    "50 steps, cfg 4": ({"num_steps": 50, "cfg_scale": 4.0}, "off", 55.0),
    "8 steps, cfg 1, fp8": ({"num_steps": 8, "cfg_scale": 1.0}, "fp8", 10.0),
}
"""Settings of the pictures, quantization, and the bar in seconds, by name."""
READ_BAR = 0.15


def measure(options: argparse.Namespace, settings: dict[str, Any], quantization: str) -> tuple[AnswerTimes, int]:
    """Measure one answer on a new network; return its times and its peak of memory."""
    device, dtype = resolve_device(options.device), resolve_dtype(options.dtype)
    network = random_network(shape_config(options.shape), device, dtype)
    quantize_network(network, resolve_quantization(quantization, device, dtype))
    answer = ScriptedAnswer(select_backend(network, enforce_eager=False), LoadSettings(dtype=options.dtype))
    image_settings = ImageSettings(size=options.size, **settings)
    answer.run(image_settings.model_copy(update={"num_steps": 3}), 2, 12)
    reset_peak_memory(device)
    return answer.run(image_settings, options.pictures, options.tokens), peak_memory(device)


def main() -> None:
    parser = harness.parser(__doc__, device="cuda", dtype="bfloat16")
    parser.add_argument("--shape", default="u1-8b", help="u1-8b or u1.5-8b (default: u1-8b)")
    parser.add_argument("--size", default="2048x1152")
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--only", choices=ANSWERS, help="measure this answer only")
    options = parser.parse_args()
    result: dict[str, Any] = {"shape": options.shape, "size": options.size}
    bars: list[Bar] = []
    table = harness.table("answer", "in all", "a picture", "a token", "a picture read back", "peak memory")
    for name, (settings, quantization, seconds) in ANSWERS.items():
        if options.only not in (None, name):
            continue
        harness.progress(name)
        times, peak = measure(options, settings, quantization)
        gc.collect()  # the next network needs the memory
        return_free_memory(resolve_device(options.device))
        picture, token = statistics.median(times.pictures), statistics.median(times.tokens)
        row = (f"{times.seconds:.2f} s", f"{picture:.3f} s", f"{1000 * token:.2f} ms", f"{max(times.reads):.3f} s")
        table.add_row(name, *row, f"{peak / 2**30:.1f} GiB")
        result[name] = {**asdict(times), "reads": times.reads, "peak_memory": peak}
        bars += [
            Bar(f"{name}: the whole answer", times.seconds, seconds, "s"),
            Bar(f"{name}: the slowest reading of a picture", max(times.reads), READ_BAR, "s"),
        ]
    harness.finish(options, result, table, options.device)
    harness.show(harness.bars_table(bars))
    raise SystemExit(any(not bar.met for bar in bars))


if __name__ == "__main__":
    main()
