"""Compare int8 with bfloat16 and float32 on a CPU, for the matrix products of one layer of an 8B model.

    python -m benchmarks.int8_cpu --output benchmarks/results/int8_cpu.json
    python -m benchmarks.int8_cpu --parts one_row --output benchmarks/results/int8_cpu_one_row.json

Parts:

    layer      each product in each format. A text product has one row, a picture product 1024 rows. Rotating and
               quantizing the inputs is part of the int8 time.
    few_rows   both ways to multiply a few rows, from which `FEW_ROWS` in model/checkpoint/int8.py follows
    one_row    ways of PyTorch to multiply one row with an int8 weight: their times, and their relative errors
               ‖a − b‖ / ‖b‖ for Gaussian inputs and for inputs with one number that is 1000 times as large
"""

import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import harness
from model.checkpoint import int8
from model.checkpoint.int8 import Int8Linear
from model.network.rotation import rotate_reversed

CPU = torch.device("cpu")
SHAPES = {"qkv": (6144, 4096), "o": (4096, 4096), "gate and up": (24576, 4096), "down": (4096, 12288)}
"""Rows and columns of the weights of one layer."""
TEXT_ROWS, PICTURE_ROWS = 1, 1024
BARS = {TEXT_ROWS: 5.0, PICTURE_ROWS: 3.0}
"""Times that int8 is faster than bfloat16."""
BLOCK_ROWS = 64
"""Rows of a weight that are converted to float32 at once: 1 MiB at 4096 columns."""
PARTS = ("layer", "few_rows", "one_row")
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

    def product(x: Tensor, limit: int) -> None:
        int8.FEW_ROWS = limit
        quantized(x)

    for rows in ROW_COUNTS:
        x = torch.randn(rows, 4096)
        ways = {"int8 weight, bfloat16 rows": partial(product, x, rows), "int8 rows": partial(product, x, 0)}
        result[rows] = fastest(ways, repeats)
    int8.FEW_ROWS = before
    return result


def one_row(repeats: int) -> dict[str, dict[str, float]]:
    """Return seconds and errors of each way to multiply one row with a weight of `SHAPES["qkv"]`, and bfloat16's."""
    features, width = SHAPES["qkv"]
    weight = torch.randn(features, width) * width**-0.5
    quantized = Int8Linear(features, width, CPU)
    quantized.fill(weight)
    fbgemm = fbgemm_product(quantized)
    part, rows = torch.empty(BLOCK_ROWS, width), torch.empty(features)

    def by_blocks(rotated: Tensor) -> Tensor:
        """Convert a few rows of the weight to float32 at a time, which stay in the cache."""
        for first in range(0, features, BLOCK_ROWS):
            part.copy_(quantized.weight[first : first + BLOCK_ROWS])
            torch.mv(part, rotated[0], out=rows[first : first + BLOCK_ROWS])
        return rows * quantized.scale

    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "int8 weight, bfloat16 row": quantized,
        "int8 weight in float32 by blocks": lambda x: by_blocks(rotate_reversed(x, quantized.group)),
        "FBGEMM, int8 row": lambda x: fbgemm(rotate_reversed(x, quantized.group)),
    }
    x, half = torch.randn(1, width), weight.to(torch.bfloat16)
    outlier = x.clone()
    outlier[0, 0] = 1000
    runs: dict[str, Callable[[], object]] = {name: partial(way, x) for name, way in ways.items()}
    times = fastest({**runs, "bfloat16": partial(F.linear, x.to(torch.bfloat16), half)}, repeats)
    result = {name: {"seconds": each} for name, each in times.items()}
    for name, way in ways.items():
        for case, row in (("error", x), ("error, one large number", outlier)):
            exact = row.double() @ weight.double().T
            result[name][case] = float((way(row).double() - exact).norm() / exact.norm())
    return result


def fbgemm_product(quantized: Int8Linear) -> Callable[[Tensor], Tensor]:
    """Return the product of FBGEMM, which quantizes its input to eight bits and keeps a copy of the weight."""
    torch.backends.quantized.engine = "fbgemm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it will be removed from PyTorch
        zeros = torch.zeros(quantized.out_features, dtype=torch.long)
        weight = torch._make_per_channel_quantized_tensor(quantized.weight, quantized.scale.double(), zeros, 0)
    packed = torch.ops.quantized.linear_prepack(weight, None)
    return lambda rotated: torch.ops.quantized.linear_dynamic(rotated, packed)


@torch.inference_mode()
def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["layer", "few_rows"])
    options = parser.parse_args()
    result: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "int8_units": torch.cpu._is_vnni_supported(),
    }
    if "few_rows" in options.parts:
        result["few_rows"] = few_rows(options.repeats)
    if "one_row" in options.parts:
        result["one_row"] = one_row(options.repeats)
        rows = [(name, *(f"{value:.4f}" for value in each.values())) for name, each in result["one_row"].items()]
        harness.show(harness.table("one row", "seconds", "error", "one large number", rows=rows))
    if "layer" not in options.parts:
        harness.save(options, result, CPU)
        return
    layers = {}
    for name, shape in SHAPES.items():
        layers[name] = measure(*shape, options.repeats)
        harness.progress(f"{name}: {layers[name]}")
    total = {
        rows: {each: sum(layer[rows][each] for layer in layers.values()) for each in ("int8", "float32", "bfloat16")}
        for rows in BARS
    }
    rows_of_table = [
        (f"{name}, {rows} rows", *(f"{1000 * layer[rows][each]:.1f}" for each in ("int8", "float32", "bfloat16")))
        for name, layer in {**layers, "all four": total}.items()
        for rows in BARS
    ]
    table = harness.table("product", "int8, ms", "float32", "bfloat16", rows=rows_of_table)
    harness.finish(options, {**result, "seconds": layers, "one_layer": total}, table, CPU)
    bars = [
        harness.Bar(f"{rows} rows: int8 against bfloat16", each["bfloat16"] / each["int8"], BARS[rows], "times", True)
        for rows, each in total.items()
    ]
    harness.show(harness.bars_table(bars))


if __name__ == "__main__":
    main()
