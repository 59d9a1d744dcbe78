"""The number of ranks and their devices, in this program's own processes or in those of a launcher.

A launcher (torchrun, accelerate launch) starts one process for each rank and describes the ranks in the environment.

Importing this module does not import PyTorch.
"""

import os
from typing import TYPE_CHECKING

from config.mentions import mention
from model.device_kinds import DeviceKind
from model.errors import DeviceError

if TYPE_CHECKING:
    import torch

LAUNCHERS = "torchrun or accelerate launch"
"""The launchers, for messages. Their environments hardly differ: accelerate runs torchrun's code."""
SIZES = "tensor_parallel_size × cfg_parallel_size"
"""The settings that ask for a number of ranks, if `gpus` does not."""
MOST_CPU_RANKS = 8
"""Ranks that are allowed on a CPU with fewer cores."""


def launched() -> tuple[int, int] | None:
    """Return this process's rank and the number of ranks if a launcher has started several, else None."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        return None
    if not (os.environ["RANK"].isdecimal() and os.environ["WORLD_SIZE"].isdecimal()):
        return None  # variables of some other program
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return (rank, size) if size > 1 else None


def require_ranks(size: int, device: "torch.device", setting: str = SIZES) -> None:
    """Raise DeviceError unless `size` ranks can run: each needs a device, and under a launcher a process.

    Args:
        setting: the settings that ask for this number, for messages.
    """
    world = launched()
    if world is not None and world[1] != size:
        raise DeviceError(
            f"{LAUNCHERS} has started {world[1]} ranks; {setting} is {size}",
            f"give sizes whose product is {world[1]}, such as {mention('tensor_parallel_size', world[1])}; "
            f"or {mention('gpus', world[1])}",
        )
    kind = DeviceKind.of(device)
    if not kind.is_gpu and size > max(MOST_CPU_RANKS, cores()):
        raise DeviceError(
            f"{setting} is {size}: too many processes for {cores()} cores",
            f"ask for at most {max(MOST_CPU_RANKS, cores())} in all",
        )
    if size == 1 or not kind.can_be_many:
        return
    import torch

    gpus = torch.cuda.device_count()
    local_size = size if world is None else int(os.environ.get("LOCAL_WORLD_SIZE", size))
    if local_size > gpus:
        raise DeviceError(
            f"{setting} is {size}, but PyTorch sees {gpus} GPU{'s' * (gpus != 1)}",
            f"ask for {gpus} in all" if gpus > 1 else "leave the number of GPUs out",
        )


def own_device(kind: str, rank: int) -> "torch.device":
    """Return the device of a rank, of this kind (`cpu` or `cuda`)."""
    import torch

    if kind == "cpu":
        return torch.device("cpu")
    return torch.device(kind, int(os.environ.get("LOCAL_RANK", rank)) if launched() else rank)


def threads_each(size: int) -> int:
    """Return the number of CPU threads for each of `size` ranks."""
    return max(1, cores() // size)


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
