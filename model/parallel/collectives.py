"""Collectives: the tensors that ranks exchange while they compute.

All of them are operations of `torch.distributed`: NCCL between GPUs, which CUDA graphs can capture, and gloo between
CPUs. `model.parallel.layout` defines the shards of each rank.
"""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.checkpoint.sharding import Shard
from model.device_kinds import DeviceKind
from model.errors import RankError
from model.parallel.layout import ParallelLayout

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

TIMEOUT = timedelta(days=1)
"""Time that a rank waits for another one within an operation. No operation takes that long. Rank 0 notices a dead rank
at once, because its connection closes: see `model.parallel.processes`."""


class TowerGroup:
    """The process group of the ranks that hold the shards of one tower, seen from one of them.

    Attributes:
        shard: this rank's shard of the tower.
    """

    def __init__(self, shard: Shard, indices: Sequence[int], group: Any) -> None:
        """
        Args:
            indices: the shard index of each rank of the group, in the order of its ranks.
        """
        self.shard = shard
        self._members = [indices.index(index) for index in range(shard.count)]
        self._group = group

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum over all shards; the sum is written into `tensor`."""
        if self.shard.count > 1:
            dist.all_reduce(tensor, group=self._group)
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all shards, concatenated in the last dimension: (…, n) → (…, count·n)."""
        if self.shard.count == 1:
            return tensor
        gathered = _all_gather(tensor, self.shard.count, self._group)
        # Slices, because a CUDA graph cannot capture indexing by a list.
        return torch.cat([gathered[member] for member in self._members], dim=-1)


class ProcessGroups:
    """The process groups of one rank. All ranks call the same methods in the same order, with equal shapes.

    Attributes:
        layout, rank: the parallel layout, and this rank's number in it.
        shards: this rank's shards of the towers.
        und, gen: the ranks that share each tower with this one.
    """

    def __init__(self, layout: ParallelLayout, rank: int, device: torch.device, store: "Store") -> None:
        """Join the process groups; returns when all ranks have joined.

        Raises:
            RankError: this process still belongs to the groups of another model.
        """
        if dist.is_initialized():
            raise RankError("this process has process groups already, of another model", "close that engine first")
        self.layout, self.rank, self.device = layout, rank, device
        self.shards = layout.shards(rank)
        backend = DeviceKind.of(device).rank_backend
        if backend == "nccl":
            # Rank 0 reports a lost rank itself; PyTorch's error handling would end this process.
            os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
            torch.cuda.set_device(device)
        dist.init_process_group(backend, store=store, rank=rank, world_size=layout.size, timeout=TIMEOUT)
        ranks = torch.arange(layout.size).view(layout.guidance, layout.tensor)
        tensor = _own_group(ranks.tolist(), rank)
        self._guidance = _own_group(ranks.T.tolist(), rank)
        self.gen = TowerGroup(self.shards.gen, range(layout.tensor), tensor)
        if layout.splits_und:
            indices = [layout.shards(member).und.index for member in range(layout.size)]
            self.und = TowerGroup(self.shards.und, indices, dist.group.WORLD)
        else:
            self.und = self.gen
        # The first operation of a group opens its connections, which a CUDA graph cannot capture.
        number = torch.zeros(1, device=device)
        for tower in (self.gen, self.und):
            tower.all_reduce(number)
            tower.all_gather(number)
        self.all_gather(number)
        self.broadcast(number)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all copies of the gen tower, one after another: (n, …) → (guidance·n, …)."""
        if self.layout.guidance == 1:
            return tensor
        return _all_gather(tensor, self.layout.guidance, self._guidance).flatten(0, 1)

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Return rank 0's tensor; it is written into `tensor` on the other ranks."""
        dist.broadcast(tensor, src=0)
        return tensor

    @staticmethod
    def leave() -> None:
        """Leave the process groups without waiting for other ranks.

        On CUDA, operations that wait for a lost rank end with arbitrary results. The call returns only after all CUDA
        graphs that hold operations of the groups are freed.
        """
        if not dist.is_initialized():
            return
        if dist.get_backend() == "nccl":
            dist.distributed_c10d._abort_process_group()
        else:
            dist.destroy_process_group()


def _own_group(groups: list[list[int]], rank: int) -> Any:
    """Make all process groups, as every rank must, and return the one that contains `rank`.

    A single group of all ranks exists already; another one would take memory on each GPU. A group of one rank is None.
    """
    if len(groups) == 1:
        return dist.group.WORLD
    if len(groups[0]) == 1:
        return None
    made = [dist.new_group(ranks, timeout=TIMEOUT) for ranks in groups]
    return next(group for group, ranks in zip(made, groups, strict=True) if rank in ranks)


def _all_gather(tensor: Tensor, count: int, group: Any) -> Tensor:
    """Return the tensors of `count` ranks: (…) → (count, …)."""
    tensor = tensor.contiguous()
    gathered = tensor.new_empty(count * tensor.numel())
    # PyTorch 2.13 renamed the function and warns about the old name.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(gathered, tensor.flatten(), group=group)
    return gathered.view(count, *tensor.shape)
