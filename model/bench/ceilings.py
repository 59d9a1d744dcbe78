"""Ceilings of the device's speed: the rates of a large matrix product and of a large copy."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from model.devices import synchronize

GEMM_SIDE = {"cuda": 8192, "mps": 4096, "cpu": 2048}
"""Rows and columns of the multiplied matrices."""
COPY_BYTES = {"cuda": 2 * 2**30, "mps": 2**29, "cpu": 2**28}
"""Larger than any cache of the device."""
PROJECTED_ROWS = 1024
"""Rows that a measured projection multiplies: a picture of 1024×1024 has as many."""
REPEATS, WARM_UPS = 10, 3
ENOUGH = 4.0
"""Seconds after which slow work is not repeated. A CPU without bfloat16 instructions takes 7 s for one product."""


@dataclass(frozen=True)
class Ceilings:
    """Rates of one device in one number format.

    Attributes:
        gemm: floating-point operations per second in a square matrix product.
        copy: bytes per second in a copy within the device's memory. Each byte counts twice: read and written.
    """

    gemm: float
    copy: float


@torch.inference_mode()
def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Measure both rates. This takes 1 to 12 s, and on CUDA 4 GiB of device memory."""
    side = GEMM_SIDE[device.type]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    gemm = 2 * side**3 / median_seconds(lambda: torch.mm(left, right, out=product), device, ENOUGH)
    source = torch.zeros(COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / median_seconds(lambda: target.copy_(source), device, ENOUGH)
    return Ceilings(gemm, copy)


@torch.inference_mode()
def projection_rate(layer: nn.Module, in_features: int, device: torch.device, dtype: torch.dtype) -> float:
    """Measure the floating-point operations per second of a projection from and to rows of the same width."""
    layer.fill(torch.randn(in_features, in_features, device=device) * in_features**-0.5)  # type: ignore[operator]
    rows = torch.randn(PROJECTED_ROWS, in_features, device=device).to(dtype)
    return 2 * PROJECTED_ROWS * in_features**2 / median_seconds(lambda: layer(rows), device, ENOUGH)


def median_seconds(work: Callable[[], object], device: torch.device, enough: float = math.inf) -> float:
    """Return the median time of one run, in seconds.

    Args:
        enough: seconds after which no further run starts. The first `WARM_UPS` runs count only if there are no others.
    """
    seconds: list[float] = []
    while len(seconds) < WARM_UPS + REPEATS and sum(seconds) < enough:
        synchronize(device)
        clock = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - clock)
    return statistics.median(seconds[WARM_UPS:] or seconds[-1:])
