"""What the ranks of one network tell one another while they compute.

There are `tensor` × `guidance` ranks. The gen tower is there `guidance` times, each time split over `tensor` ranks, and
each of these copies computes branches of its own. The und tower, of which all branches need the same, is split like the
gen tower, or, where `Position.splits_und` says so, over all ranks:

    rank                 0  1  2  3        with tensor 2, guidance 2
    part of gen          0  1  0  1        of 2: those of one copy sum partial results, in every block
    copy of gen          0  0  1  1        ranks with the same part exchange a step's predictions, and the heads of
    part of und          0  2  1  3        of 4   what und has read, which lie side by side in gen

All of it is `torch.distributed`: NCCL between GPUs, whose operations CUDA graphs can hold, and gloo between CPUs.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.checkpoint.sharding import Shard, Shards
from model.errors import RankError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

PATIENCE = timedelta(days=1)
"""How long one rank waits for another within an operation. None is that slow; one that is dead is noticed at once, by
other means: see `model.parallel.processes`."""


@dataclass(frozen=True)
class Position:
    """One rank among all.

    Attributes:
        tensor, guidance: the parts of the gen tower, and how many times it is there.
        splits_und: whether the und tower is split over all ranks.
    """

    rank: int
    tensor: int
    guidance: int
    splits_und: bool

    @property
    def size(self) -> int:
        return self.tensor * self.guidance

    @property
    def shards(self) -> Shards:
        """Its part of the network."""
        copy, part = divmod(self.rank, self.tensor)
        gen = Shard(part, self.tensor)
        return Shards(Shard(part * self.guidance + copy, self.size) if self.splits_und else gen, gen)

    @property
    def branches(self) -> slice:
        """Those of a step's guidance branches that it computes."""
        return slice(self.rank // self.tensor, None, self.guidance)


class TowerGroup:
    """The ranks that hold the parts of one tower, as one of them sees them."""

    def __init__(self, shard: Shard, order: Sequence[int], group: Any) -> None:
        """order: the part that each of them has."""
        self.shard = shard
        self._places = [order.index(part) for part in range(shard.count)]
        self._group = group

    def all_reduce(self, numbers: Tensor) -> Tensor:
        """The sum over all parts, in place."""
        if self.shard.count > 1:
            dist.all_reduce(numbers, group=self._group)
        return numbers

    def join(self, numbers: Tensor) -> Tensor:
        """What all parts have, one behind another in the last dimension: (…, n) → (…, count·n)."""
        if self.shard.count == 1:
            return numbers
        every = _gathered(numbers, self.shard.count, self._group)
        # Slices, which a CUDA graph can hold, not an index.
        return torch.cat([every[place] for place in self._places], dim=-1)


class ProcessGroups:
    """The process groups of one rank. All ranks call the same methods in the same order, with equal shapes.

    Attributes:
        und, gen: those with which it shares each tower.
    """

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
        tensor = _own_group(ranks.tolist(), position.rank)
        self._guidance = _own_group(ranks.T.tolist(), position.rank)
        shards = position.shards
        self.gen = TowerGroup(shards.gen, range(position.tensor), tensor)
        if position.splits_und:
            order = [replace(position, rank=rank).shards.und.index for rank in range(position.size)]
            self.und = TowerGroup(shards.und, order, dist.group.WORLD)
        else:
            self.und = self.gen
        # A group's first operation sets up its connections, which a CUDA graph cannot hold.
        first = torch.zeros(1, device=device)
        for tower in (self.gen, self.und):
            tower.all_reduce(first)
            tower.join(first)
        self.all_gather(first)
        self.broadcast(first)

    def all_gather(self, numbers: Tensor) -> Tensor:
        """What each copy of the gen tower has, one behind another: (n, …) → (guidance·n, …)."""
        if self.position.guidance == 1:
            return numbers
        return _gathered(numbers, self.position.guidance, self._guidance).flatten(0, 1)

    def broadcast(self, numbers: Tensor) -> Tensor:
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
