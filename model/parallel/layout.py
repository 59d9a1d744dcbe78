"""How several GPUs share a model: the number of copies of the generation tower, and of shards of each copy.

All GPUs share the understanding tower (`model.parallel.collectives`) when its heads can be split that often. An
unguided picture is drawn by one copy of the generation tower on all GPUs. Guided branches run on separate copies.
`benchmarks/several_gpus.py` measures every layout.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from model.checkpoint.sharding import possible_splits, split_config
from model.devices import usable_memory
from model.errors import DeviceError
from model.memory.estimate import ALL_RESIDENT, SPARE_BYTES, USUAL_PREFIXES, Weights, Workload, peak_bytes
from model.network.configuration import ModelConfig
from model.parallel.collectives import Position
from model.parallel.launch import launched
from model.requests import AnswerRequest, Request
from model.sampling.guidance import guidance_of

USUAL_BRANCHES = 2
"""Of a picture with guidance."""


@dataclass(frozen=True)
class ExpectedUse:
    """What a model is loaded for.

    Attributes:
        branches: of its pictures' guidance; 1 where nothing is guided, or drawn.
        writes: whether text is to be written.
        image_tokens: of the pictures to have room for.
    """

    branches: int
    writes: bool
    image_tokens: int

    @classmethod
    def of(cls, requests: Sequence[Request] | None, image_tokens: int) -> "ExpectedUse":
        """requests: None where nobody knows them yet: then pictures with guidance, and text."""
        if requests is None:
            return cls(USUAL_BRANCHES, writes=True, image_tokens=image_tokens)
        branches, writes = 1, False
        for request in requests:
            if isinstance(request, AnswerRequest):
                writes = True
            else:
                branches = max(branches, len(guidance_of(request).branches))
                writes = writes or request.settings.think
        return cls(branches, writes, image_tokens)


@dataclass(frozen=True)
class ParallelLayout:
    """`tensor` parts of what draws, which is there `guidance` times: on as many GPUs as the product; `splits_und` as of
    `Position`."""

    tensor: int
    guidance: int
    splits_und: bool = False

    def describe(self) -> str:
        """In words, by the settings that say the same."""
        sizes = f"shared as by `tensor_parallel_size` {self.tensor} `cfg_parallel_size` {self.guidance}"
        return f"{sizes}, text by all {self.tensor * self.guidance}" if self.splits_und else sizes


def choose_layout(
    gpus: int, demand: ExpectedUse, possible: Sequence[int], fits: Callable[[ParallelLayout], bool]
) -> ParallelLayout | None:
    """The fastest arrangement of so many GPUs, or None if they cannot share the model.

    Branches that are drawn apart exchange one prediction a step, parts of a tower two sums in every block: so there
    are as many copies as branches, if they fit, and otherwise fewer. Where text is written, all share what reads and
    writes. Where none is, each copy has that, too, if it fits: prompts are read no later, and no sum is rounded in
    another way than with one copy.

    Args:
        possible: numbers of parts that the model can be split into.
        fits: whether each GPU has memory for its part. One that is the only way is taken all the same.
    """
    ways: list[ParallelLayout] = []
    for copies in range(demand.branches, 0, -1):
        parts, left_over = divmod(gpus, copies)
        if left_over or parts not in possible:
            continue
        together = [ParallelLayout(parts, copies, splits_und=True)] if copies > 1 and gpus in possible else []
        apart = [ParallelLayout(parts, copies)]
        ways += together + apart if demand.writes else apart + together
    return next(filter(fits, ways), ways[-1] if ways else None)


def choose_model_layout(
    gpus: int,
    demand: ExpectedUse,
    config: ModelConfig,
    device: torch.device,
    itemsize: int,
    quantized: Sequence[str],
) -> ParallelLayout:
    """`choose_layout` of a checkpoint's model.

    Args:
        device: `cuda`, whose first GPU is asked for its memory, or `cpu`.
        itemsize, quantized: as for `Weights.of`.

    Raises:
        DeviceError: so many GPUs cannot share the model; the numbers that can are named.
    """
    possible = possible_splits(config)
    work = Workload(demand.image_tokens, USUAL_PREFIXES)

    def fits(arrangement: ParallelLayout) -> bool:
        budget = usable_memory(device, None)
        if budget is None:
            return True
        if device.type == "cpu":
            budget //= gpus  # which is one for all
        shards = Position(0, arrangement.tensor, arrangement.guidance, arrangement.splits_und).shards
        weights = Weights.of(config, itemsize, quantized, shards)
        own = split_config(config, arrangement.tensor)
        return peak_bytes(own, weights, ALL_RESIDENT, work, itemsize) + SPARE_BYTES <= budget

    found = choose_layout(gpus, demand, possible, fits)
    if found is None:
        numbers = {parts * copies for parts in possible for copies in range(1, demand.branches + 1)}
        raise DeviceError(
            f"gpus {gpus}: {config.transformer.heads} heads and {config.transformer.kv_heads} key/value heads of this "
            f"model cannot be shared equally by {gpus} GPUs",
            f"for this it can be {', '.join(map(str, sorted(numbers)))}",
        )
    return found


def count_gpus(gpus: int | Literal["all"], device: torch.device) -> int:
    """The setting `gpus` as a number.

    Raises:
        DeviceError: all of them are asked for, and the device is none.
    """
    if gpus != "all":
        return gpus
    world = launched()
    if world is not None:
        return world[1]
    if device.type == "cpu":
        raise DeviceError(
            "gpus all: this runs on the CPU, or PyTorch sees no GPU here",
            "leave it out; `gpus=2` and `device=cpu` try it out on two processes",
        )
    return torch.cuda.device_count() if device.type == "cuda" else 1
