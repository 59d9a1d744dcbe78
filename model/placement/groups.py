"""What the ranks of one network tell one another while they compute.

There are `tensor` × `guidance` ranks. Those of one tensor group hold the parts of one network and compute a pass
together; each guidance group, which is one such whole network, computes branches of its own:

    rank            0  1  2  3        with tensor 2, guidance 2
    tensor group    0  0  1  1        sums partial results, in every block
    its part        0  1  0  1
    guidance group  0  1  0  1        ranks with the same part, one of each network: exchange a step's predictions

All of it is `torch.distributed`: NCCL between GPUs, whose operations CUDA graphs can hold, and gloo between CPUs.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.errors import RankError
from model.weights.slices import Share

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

PATIENCE = timedelta(days=1)
"""How long one rank waits for another within an operation. None is that slow; one that is dead is noticed at once, by
other means: see `model.placement.ranks`."""


@dataclass(frozen=True)
class Position:
    """One rank among all: `tensor` and `guidance` are how many of each there are."""

    rank: int
    tensor: int
    guidance: int

    @property
    def size(self) -> int:
        return self.tensor * self.guidance

    @property
    def share(self) -> Share:
        """Its part of the network."""
        return Share(self.rank % self.tensor, self.tensor)

    @property
    def branches(self) -> slice:
        """Those of a step's guidance branches that it computes."""
        return slice(self.rank // self.tensor, None, self.guidance)


class Groups:
    """The process groups of one rank. All ranks call the same methods in the same order, with equal shapes."""

    def __init__(self, position: Position, device: torch.device, store: "Store") -> None:
        """Join the others; returns when all of them have.

        Raises:
            RankError: this process still belongs to earlier groups.
        """
        if dist.is_initialized():
            raise RankError("this process has process groups already, of another model", "close that engine first")
        self.position, self.device = position, device
        backend = "nccl" if device.type == "cuda" else "gloo"
        if backend == "nccl":
            # A rank that is lost is reported in our own words; PyTorch's own way would end this process.
            os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
            torch.cuda.set_device(device)
        dist.init_process_group(backend, store=store, rank=position.rank, world_size=position.size, timeout=PATIENCE)
        ranks = torch.arange(position.size).view(position.guidance, position.tensor)
        self._tensor = _own_group(ranks.tolist(), position.rank)
        self._guidance = _own_group(ranks.T.tolist(), position.rank)
        # A group's first operation sets up its connections, which a CUDA graph cannot hold.
        first = torch.zeros(1, device=device)
        self.sum_(first)
        self.join(first)
        self.exchange(first)
        self.agree(first)

    def sum_(self, numbers: Tensor) -> Tensor:
        """The sum over the tensor group, in place."""
        if self.position.tensor > 1:
            dist.all_reduce(numbers, group=self._tensor)
        return numbers

    def join(self, numbers: Tensor) -> Tensor:
        """What the tensor group has, one behind another in the last dimension: (…, n) → (…, tensor·n)."""
        if self.position.tensor == 1:
            return numbers
        return _gathered(numbers, self.position.tensor, self._tensor).movedim(0, -2).flatten(-2)

    def exchange(self, numbers: Tensor) -> Tensor:
        """What each guidance branch's network has, one behind another: (n, …) → (guidance·n, …)."""
        if self.position.guidance == 1:
            return numbers
        return _gathered(numbers, self.position.guidance, self._guidance).flatten(0, 1)

    def agree(self, numbers: Tensor) -> Tensor:
        """Rank 0's numbers, everywhere."""
        dist.broadcast(numbers, src=0)
        return numbers

    @staticmethod
    def leave() -> None:
        """Give the groups up, whatever the others do. On CUDA, operations that wait for a lost rank end by it, with
        arbitrary results; it returns only when all CUDA graphs that hold operations are gone."""
        if not dist.is_initialized():
            return
        if dist.get_backend() == "nccl":
            dist.distributed_c10d._abort_process_group()
        else:
            dist.destroy_process_group()


def _own_group(groups: list[list[int]], rank: int) -> Any:
    """Every rank has to take part in making every group. A group of all ranks is there already, and takes memory on
    each GPU; one of a single rank is not used."""
    if len(groups) == 1:
        return dist.group.WORLD
    if len(groups[0]) == 1:
        return None
    made = [dist.new_group(ranks, timeout=PATIENCE) for ranks in groups]
    return next(group for group, ranks in zip(made, groups, strict=True) if rank in ranks)


def _gathered(numbers: Tensor, count: int, group: Any) -> Tensor:
    """(count, *shape)"""
    numbers = numbers.contiguous()
    every = numbers.new_empty(count * numbers.numel())
    # PyTorch 2.13 has another name for it, and a warning for this one.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(every, numbers.flatten(), group=group)
    return every.view(count, *numbers.shape)
