"""How many ranks there may be, and where: on this machine's devices, or as processes that torchrun has started.

Nothing here imports PyTorch before it has to.
"""

import os
from typing import TYPE_CHECKING

from config.mentions import mention
from model.errors import DeviceError

if TYPE_CHECKING:
    import torch

SIZES = "tensor_parallel_size × cfg_parallel_size"
"""The settings that say how many, where `gpus` does not."""
MOST_ON_A_CPU = 8
"""Ranks that a CPU of fewer cores may have, to try things out."""


def launched() -> tuple[int, int] | None:
    """Rank and number of ranks where torchrun, or something like it, has started this process as one of several."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        return None
    if not (os.environ["RANK"].isdecimal() and os.environ["WORLD_SIZE"].isdecimal()):
        return None  # somebody else's variables
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return (rank, size) if size > 1 else None


def require_ranks(size: int, device: "torch.device", asked: str = SIZES) -> None:
    """Raise DeviceError unless there is a device for each of so many ranks, and a process, where torchrun has started
    them; `asked` names the settings that say how many."""
    world = launched()
    if world is not None and world[1] != size:
        raise DeviceError(
            f"torchrun has started {world[1]} ranks; {asked} is {size}",
            f"give sizes whose product is {world[1]}, such as {mention('tensor_parallel_size', world[1])}; "
            f"or {mention('gpus', world[1])}",
        )
    if device.type == "cpu" and size > max(MOST_ON_A_CPU, cores()):
        raise DeviceError(
            f"{asked} is {size}: too many processes for {cores()} cores",
            f"ask for at most {max(MOST_ON_A_CPU, cores())} in all",
        )
    if size == 1 or device.type != "cuda":
        return
    import torch

    there = torch.cuda.device_count()
    if (int(os.environ.get("LOCAL_WORLD_SIZE", size)) if world is not None else size) > there:
        raise DeviceError(
            f"{asked} is {size}, but PyTorch sees {there} GPU{'s' * (there != 1)}",
            f"ask for {there} in all" if there > 1 else "leave the number of GPUs out",
        )


def own_device(kind: str, rank: int) -> "torch.device":
    """The device of a rank."""
    import torch

    if kind == "cpu":
        return torch.device("cpu")
    return torch.device(kind, int(os.environ.get("LOCAL_RANK", rank)) if launched() else rank)


def threads_each(size: int) -> int:
    """CPU threads of each rank."""
    return max(1, cores() // size)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
