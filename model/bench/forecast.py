"""Forecasts for a model that is not loaded: the memory of each offload plan, and the seconds of a guided step."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from pathlib import Path

import torch

from config.sizes import TOKEN_PIXELS, Size
from model.bench.ceilings import Ceilings
from model.checkpoint.quantization import Quantization
from model.checkpoint.tensor_files import stored_tensors
from model.device_kinds import DeviceKind
from model.devices import host_memory, synchronize
from model.errors import DeviceMemoryError
from model.memory.estimate import (
    ALL_RESIDENT,
    LEAST,
    MIN_BUFFERS,
    USUAL_PREFIXES,
    OffloadPlan,
    Weights,
    Workload,
    choose_offload_plan,
    peak_bytes,
)
from model.memory.layer_buffers import RING
from model.memory.weight_stream import WeightStream
from model.network.configuration import ModelConfig
from model.network.counts import prediction_flops, projection_flops

SHARE_OF_CEILING = {"cuda": 0.75, "cpu": 0.8, "mps": 0.5}
"""Share of a large matrix product's rate that a step reaches (docs/performance.md; for a CPU docs/memory.md)."""
LINK_BYTES, READ_BYTES = 256 * 2**20, 2 * 2**30


@dataclass(frozen=True)
class Forecast:
    """The forecast for one offload plan at one picture size.

    Attributes:
        peak: predicted peak of the device's memory, in bytes.
        fits: whether the peak is within the budget.
        seconds: predicted seconds of a guided step.
        text_pass_bytes: bytes that each pass of a text loads to the device.
        chosen: whether `offload=auto` would choose this plan.
    """

    size: Size
    offload_plan: OffloadPlan
    peak: int
    fits: bool
    seconds: float
    chosen: bool
    text_pass_bytes: int


@dataclass(frozen=True)
class Bandwidth:
    """The rates at which weights reach the device, in bytes per second; None if not measured.

    Attributes:
        link: from the host's memory to the device.
        files: from the checkpoint's files, or from the page cache if it contains them, to the host's memory.
        note: a warning about the measurement, or None.
    """

    link: float | None
    files: float | None
    note: str | None

    @property
    def rate(self) -> float | None:
        """The slower of the two rates; None if neither was measured."""
        known = [each for each in (self.link, self.files) if each is not None]
        return min(known) if known else None


def measure_bandwidth(device: torch.device, folder: Path | None, weights: Path | None = None) -> Bandwidth:
    """Time a copy of 256 MiB to the device, and reading the first 2 GiB of a checkpoint, or of a file of weights."""
    link, note = None, None
    if DeviceKind.of(device).has_streams:
        source, note = host_memory(LINK_BYTES, page_locked=True)
        source.zero_()  # the system may not have allocated memory that was never written to
        target = torch.empty_like(source, device=device)
        target.copy_(source)
        synchronize(device)
        clock = time.perf_counter()
        target.copy_(source, non_blocking=True)
        synchronize(device)
        link = LINK_BYTES / (time.perf_counter() - clock)
    files = None
    source_folder = folder or (weights.parent if weights else None)
    if source_folder is not None:
        tensors = list(stored_tensors(source_folder, weights).values())
        sizes = accumulate(tensor.stop - tensor.start for tensor in tensors)
        count = max(1, len(list(takewhile(lambda total: total <= READ_BYTES, sizes))))
        stream = WeightStream({tensor.name: tensor for tensor in tensors[:count]}, device)
        files = stream.measure()
        stream.close()
        note = note or stream.note
    return Bandwidth(link, files, note)


def forecasts(
    config: ModelConfig,
    sizes: Sequence[Size],
    device: torch.device,
    itemsize: int,
    quantized: Quantization,
    budget: int,
    ceilings: Ceilings,
    bandwidth: Bandwidth,
    projection_rate: float | None = None,
) -> Iterator[Forecast]:
    """Yield forecasts for each size: all weights, one tower, as many layers as fit, and two layers on the device.

    Args:
        projection_rate: operations per second of the projections, if they are known to be another than `ceilings.gemm`.
    """
    weights = Weights.of(config, itemsize, quantized)
    module = OffloadPlan("module", weights.layers, weights.layers, whole_head=True)
    for size in sizes:
        tokens = size[0] * size[1] // TOKEN_PIXELS**2
        work = Workload(tokens, USUAL_PREFIXES)
        candidates = [ALL_RESIDENT, module]
        chosen = None
        try:
            chosen = choose_offload_plan("auto", config, weights, work, itemsize, budget)
            layers = choose_offload_plan("layers", config, weights, work, itemsize, budget)
            candidates += [layers] if MIN_BUFFERS < layers.gen_buffers < weights.layers else []
        except DeviceMemoryError:
            pass  # no plan fits, which `fits` of the forecasts shows
        flops = sum(prediction_flops(config, tokens, prefix) for prefix in USUAL_PREFIXES)
        projections = projection_flops(config, tokens) * len(USUAL_PREFIXES)
        compute_seconds = (flops - projections) / ceilings.gemm + projections / (projection_rate or ceilings.gemm)
        compute_seconds /= SHARE_OF_CEILING[device.type]
        for offload_plan in [*candidates, LEAST]:
            peak = peak_bytes(config, weights, offload_plan, work, itemsize)
            streamed = _streamed_bytes(weights, offload_plan)
            stream_seconds = streamed / bandwidth.rate if streamed and bandwidth.rate else 0.0
            seconds = max(compute_seconds, stream_seconds)
            text_bytes = weights.text_pass_bytes(offload_plan)
            yield Forecast(size, offload_plan, peak, peak <= budget, seconds, offload_plan == chosen, text_bytes)


def _streamed_bytes(weights: Weights, offload_plan: OffloadPlan) -> int:
    """Return the bytes of layers that a step streams. Each layer is streamed once for all branches."""
    if not weights.streams(offload_plan):
        return 0
    return (weights.layers - (offload_plan.gen_buffers - RING)) * weights.gen_layer
