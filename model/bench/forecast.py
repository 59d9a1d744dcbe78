"""What placements of a model would take on a device, without loading it: memory, and seconds of a guided step."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from pathlib import Path

import torch

from config.sizes import TOKEN_PIXELS, Size
from model.bench.ceilings import Ceilings
from model.checkpoint.safetensors_files import stored_tensors
from model.devices import host_memory, synchronize
from model.errors import DeviceMemoryError
from model.memory.estimate import (
    ALL_RESIDENT,
    MIN_BUFFERS,
    USUAL_PREFIXES,
    OffloadPlan,
    Weights,
    Workload,
    choose,
    peak_bytes,
)
from model.memory.layer_buffers import RING
from model.memory.weight_stream import WeightStream
from model.network.configuration import ModelConfig
from model.network.counts import prediction_flops

SHARE_OF_CEILING = {"cuda": 0.75, "cpu": 0.8, "mps": 0.5}
"""How much of a large matrix product's rate a step reaches (docs/performance.md; for a CPU docs/memory.md)."""
LINK_BYTES, READ_BYTES = 256 * 2**20, 2 * 2**30


@dataclass(frozen=True)
class Forecast:
    """One placement at one size.

    Attributes:
        peak: predicted bytes of the device's memory.
        fits: whether that is within the budget.
        seconds: of a guided step, predicted.
        chosen: whether `offload=auto` would take it.
    """

    size: Size
    offload_plan: OffloadPlan
    peak: int
    fits: bool
    seconds: float
    chosen: bool


@dataclass(frozen=True)
class Supply:
    """How fast weights come, bytes a second; None where it was not measured.

    Attributes:
        link: from the host's memory to the device.
        files: from the checkpoint's files to the host's memory, from its page cache where they are there.
        note: what a user should know about these, or None.
    """

    link: float | None
    files: float | None
    note: str | None

    @property
    def rate(self) -> float | None:
        """The slower of the two."""
        known = [each for each in (self.link, self.files) if each is not None]
        return min(known) if known else None


def measure_supply(device: torch.device, folder: Path | None) -> Supply:
    """Copy 256 MiB, and read the first 2 GiB of a checkpoint."""
    link, note = None, None
    if device.type == "cuda":
        source, note = host_memory(LINK_BYTES, page_locked=True)
        source.zero_()  # memory that nobody has written to need not be there yet
        target = torch.empty_like(source, device=device)
        target.copy_(source)
        synchronize(device)
        clock = time.perf_counter()
        target.copy_(source, non_blocking=True)
        synchronize(device)
        link = LINK_BYTES / (time.perf_counter() - clock)
    files = None
    if folder is not None:
        tensors = list(stored_tensors(folder).values())
        sizes = accumulate(tensor.stop - tensor.start for tensor in tensors)
        count = max(1, len(list(takewhile(lambda total: total <= READ_BYTES, sizes))))
        stream = WeightStream({tensor.name: tensor for tensor in tensors[:count]}, device)
        files = stream.measure()
        stream.close()
        note = note or stream.note
    return Supply(link, files, note)


def forecasts(
    config: ModelConfig,
    sizes: Sequence[Size],
    device: torch.device,
    itemsize: int,
    quantized: Sequence[str],
    budget: int,
    ceilings: Ceilings,
    supply: Supply,
) -> Iterator[Forecast]:
    """Everything on the device, the towers in turn, as many layers as fit, and two layers at a time."""
    weights = Weights.of(config, itemsize, quantized)
    module = OffloadPlan("module", weights.layers, whole_head=True)
    least = OffloadPlan("layers", MIN_BUFFERS, whole_head=False)
    for size in sizes:
        tokens = size[0] * size[1] // TOKEN_PIXELS**2
        work = Workload(tokens, USUAL_PREFIXES)
        candidates = [ALL_RESIDENT, module]
        chosen = None
        try:
            chosen = choose("auto", config, weights, work, itemsize, budget)
            layers = choose("layers", config, weights, work, itemsize, budget)
            candidates += [layers] if MIN_BUFFERS < layers.buffers < weights.layers else []
        except DeviceMemoryError:
            pass  # which the lines show
        flops = sum(prediction_flops(config, tokens, prefix) for prefix in USUAL_PREFIXES)
        computing = flops / (ceilings.gemm * SHARE_OF_CEILING[device.type])
        for offload_plan in [*candidates, least]:
            peak = peak_bytes(config, weights, offload_plan, work, itemsize)
            moved = _bytes_each_step(weights, offload_plan)
            coming = moved / supply.rate if moved and supply.rate else 0.0
            yield Forecast(size, offload_plan, peak, peak <= budget, max(computing, coming), offload_plan == chosen)


def _bytes_each_step(weights: Weights, offload_plan: OffloadPlan) -> int:
    """Of layers that take turns; each is read once for all branches."""
    if not weights.streams(offload_plan):
        return 0
    own = offload_plan.buffers - min(RING, offload_plan.buffers)
    return (weights.layers - own) * weights.towers // (2 * weights.layers)
