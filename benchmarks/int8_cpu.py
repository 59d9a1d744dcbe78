"""Compare int8 with bfloat16 and float32 on a CPU, for the matrix products of one layer of an 8B model.

    python -m benchmarks.int8_cpu --output benchmarks/results/int8_cpu.json

A text product has one row, a picture product 1024 rows. Rotating and quantizing the inputs is part of the int8 time.
`rows` shows both ways to multiply a few rows, from which `FEW_ROWS` in model/checkpoint/int8.py follows.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks import harness
from model.checkpoint import int8
from model.checkpoint.int8 import Int8Linear

CPU = torch.device("cpu")
SHAPES = {"qkv": (6144, 4096), "o": (4096, 4096), "gate and up": (24576, 4096), "down": (4096, 12288)}
"""Rows and columns of the weights of one layer."""
TEXT_ROWS, PICTURE_ROWS = 1, 1024
BARS = {TEXT_ROWS: 5.0, PICTURE_ROWS: 3.0}
"""Times that int8 is faster than bfloat16."""
ROW_COUNTS = (1, 4, 8, 16, 32, 64)


def fastest(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the shortest time of each call, in seconds. The calls alternate, so that other programs disturb all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):  # the first call does not count
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: min(each[1:]) for name, each in times.items()}


def measure(features: int, width: int, repeats: int) -> dict[int, dict[str, float]]:
    """Return the seconds of each format's product, by the number of rows."""
    weight = torch.randn(features, width) * width**-0.5
    quantized = Int8Linear(features, width, CPU)
    quantized.fill(weight)
    half = weight.to(torch.bfloat16)
    result: dict[int, dict[str, float]] = {}
    for rows in (TEXT_ROWS, PICTURE_ROWS):
        x = torch.randn(rows, width)
        runs: dict[str, Callable[[], object]] = {
            "int8": partial(quantized, x),
            "float32": partial(F.linear, x, weight),
            "bfloat16": partial(F.linear, x.to(torch.bfloat16), half),
        }
        result[rows] = fastest(runs, repeats if rows == TEXT_ROWS else max(1, repeats // 5))
    return result


def few_rows(repeats: int) -> dict[int, dict[str, float]]:
    """Return the seconds of both int8 products of a 4096×4096 weight, by the number of rows."""
    quantized = Int8Linear(4096, 4096, CPU)
    quantized.fill(torch.randn(4096, 4096))
    result: dict[int, dict[str, float]] = {}
    before = int8.FEW_ROWS

    def product(x: torch.Tensor, limit: int) -> None:
        int8.FEW_ROWS = limit
        quantized(x)

    for rows in ROW_COUNTS:
        x = torch.randn(rows, 4096)
        ways = {"int8 weight, bfloat16 rows": partial(product, x, rows), "int8 rows": partial(product, x, 0)}
        result[rows] = fastest(ways, repeats)
    int8.FEW_ROWS = before
    return result


@torch.inference_mode()
def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    layers = {}
    for name, shape in SHAPES.items():
        layers[name] = measure(*shape, options.repeats)
        harness.progress(f"{name}: {layers[name]}")
    total = {
        rows: {each: sum(layer[rows][each] for layer in layers.values()) for each in ("int8", "float32", "bfloat16")}
        for rows in BARS
    }
    counts = few_rows(options.repeats)
    rows_of_table = [
        (f"{name}, {rows} rows", *(f"{1000 * layer[rows][each]:.1f}" for each in ("int8", "float32", "bfloat16")))
        for name, layer in {**layers, "all four": total}.items()
        for rows in BARS
    ]
    table = harness.table("product", "int8, ms", "float32", "bfloat16", rows=rows_of_table)
    result = {
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "int8_units": torch.cpu._is_vnni_supported(),
        "seconds": layers,
        "one_layer": total,
        "few_rows": counts,
    }
    harness.finish(options, result, table, CPU)
    bars = [
        harness.Bar(f"{rows} rows: int8 against bfloat16", each["bfloat16"] / each["int8"], BARS[rows], "times", True)
        for rows, each in total.items()
    ]
    harness.show(harness.bars_table(bars))


if __name__ == "__main__":
    main()
