"""The choice of a parallel layout for `gpus`: the number of copies of the gen tower, and of shards of each copy.

Guided branches run on separate copies; an unguided picture runs on one copy, split over all GPUs. The und tower is
split over all GPUs if they can share its heads equally. `benchmarks/several_gpus.py` measures every layout.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from model.checkpoint.quantization import Quantization, unsplittable_width
from model.checkpoint.sharding import possible_splits, split_config
from model.device_kinds import DeviceKind
from model.devices import usable_memory
from model.errors import DeviceError
from model.memory.estimate import ALL_RESIDENT, SPARE_BYTES, USUAL_PREFIXES, Weights, Workload, peak_bytes
from model.network.configuration import ModelConfig
from model.parallel.launch import launched
from model.parallel.layout import ParallelLayout
from model.requests import AnswerRequest, InterleaveRequest, Request
from model.sampling.guidance import guidance_of

USUAL_BRANCHES = 2
"""Branches of a guided picture."""


@dataclass(frozen=True)
class ExpectedUse:
    """The requests that a model is loaded for.

    Attributes:
        branches: the largest number of guidance branches of a picture; 1 without guidance or without pictures.
        writes: whether a request writes text.
        image_tokens: tokens of the largest picture.
    """

    branches: int
    writes: bool
    image_tokens: int

    @classmethod
    def of(cls, requests: Sequence[Request] | None, image_tokens: int) -> "ExpectedUse":
        """Summarise requests. If they are unknown (None), pictures may be guided and text may be written."""
        if requests is None:
            return cls(USUAL_BRANCHES, writes=True, image_tokens=image_tokens)
        branches, writes = 1, False
        for request in requests:
            if isinstance(request, AnswerRequest):
                writes = True
            else:
                branches = max(branches, len(guidance_of(request).branches))
                writes = writes or request.settings.think or isinstance(request, InterleaveRequest)
        return cls(branches, writes, image_tokens)


def choose_layout(
    gpus: int, use: ExpectedUse, possible: Sequence[int], fits: Callable[[ParallelLayout], bool]
) -> ParallelLayout | None:
    """Return the fastest layout of `gpus` GPUs, or None if they cannot share the model.

    Copies gather one prediction per step, and shards all-reduce twice in every block. So there is one copy for each
    branch if the copies fit, and fewer otherwise. If text is written, all GPUs share the und tower. Otherwise each copy
    has the whole und tower if it fits: the prefill takes no longer, and sums are rounded as on one copy.

    Args:
        possible: numbers of shards that the model can be split into.
        fits: returns whether a layout fits in each GPU's memory. The last layout is returned even if it does not fit.
    """
    layouts: list[ParallelLayout] = []
    for copies in range(use.branches, 0, -1):
        shards, rest = divmod(gpus, copies)
        if rest or shards not in possible:
            continue
        split = [ParallelLayout(shards, copies, splits_und=True)] if copies > 1 and gpus in possible else []
        copied = [ParallelLayout(shards, copies)]
        layouts += split + copied if use.writes else copied + split
    return next(filter(fits, layouts), layouts[-1] if layouts else None)


def choose_model_layout(
    gpus: int, use: ExpectedUse, config: ModelConfig, device: torch.device, itemsize: int, quantized: Quantization
) -> ParallelLayout:
    """Return `choose_layout` for a checkpoint's model.

    Args:
        device: `cuda` or `cpu`. The free memory of the first GPU counts for all GPUs.
        itemsize, quantized: as for `Weights.of`.

    Raises:
        DeviceError: `gpus` GPUs cannot share the model; the message names the numbers that can.
    """
    possible = [each for each in possible_splits(config) if unsplittable_width(config, each, quantized) is None]
    workload = Workload(use.image_tokens, USUAL_PREFIXES)

    def fits(layout: ParallelLayout) -> bool:
        budget = usable_memory(device, None)
        if budget is None:
            return True
        if not DeviceKind.of(device).is_gpu:
            budget //= gpus  # all ranks share the host's memory
        weights = Weights.of(config, itemsize, quantized, layout.shards(0))
        gen = split_config(config, layout.tensor)
        return peak_bytes(gen, weights, ALL_RESIDENT, workload, itemsize) + SPARE_BYTES <= budget

    layout = choose_layout(gpus, use, possible, fits)
    if layout is None:
        numbers = {shards * copies for shards in possible for copies in range(1, use.branches + 1)}
        raise DeviceError(
            f"gpus {gpus}: {config.transformer.heads} heads and {config.transformer.kv_heads} key/value heads of this "
            f"model cannot be shared equally by {gpus} GPUs",
            f"for these requests `gpus` can be {', '.join(map(str, sorted(numbers)))}",
        )
    return layout


def count_gpus(gpus: int | Literal["all"], device: torch.device) -> int:
    """Return the setting `gpus` as a number.

    Raises:
        DeviceError: all GPUs are asked for, but the device is the CPU.
    """
    if gpus != "all":
        return gpus
    if (world := launched()) is not None:
        return world[1]
    if not DeviceKind.of(device).is_gpu:
        raise DeviceError(
            "gpus all: this runs on the CPU, or PyTorch sees no GPU here",
            "leave it out; `gpus=2` and `device=cpu` try it out on two processes",
        )
    return torch.cuda.device_count() if DeviceKind.of(device).can_be_many else 1
