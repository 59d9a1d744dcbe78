"""Which device and number format a run uses, and how much memory it took."""

import os
from pathlib import Path

import torch
from torch import Tensor

from model.errors import DeviceError

FREE_RESERVE = 512 * 2**20
"""Of a device's free memory, left to others where no limit is set."""

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def resolve_device(name: str) -> torch.device:
    """`auto` takes the first CUDA device, else Apple's GPU, else the CPU.

    Raises:
        DeviceError: the device that was asked for is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(f"there is no kind of device {name!r}", "use auto, cpu, cuda, cuda:1 or mps")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or (device.index or 0) >= count:
            raise DeviceError(
                f"device {name} is not there: PyTorch sees {count} CUDA devices",
                "use `device=auto` or `device=cpu`",
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device mps is not there", "use `device=auto` or `device=cpu`")
    return device


def require_device(name: str) -> None:
    """Raise DeviceError unless the device that a setting names is there; `auto` and `cpu` always are."""
    if name not in ("auto", "cpu"):
        resolve_device(name)


def resolve_dtype(name: str) -> torch.dtype:
    """Raise DeviceError unless it is `bfloat16`, `float16` or `float32`."""
    if name not in DTYPES:
        raise DeviceError(f"there is no number format {name!r}", f"use {', '.join(DTYPES)}")
    return DTYPES[name]


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was asked to; what runs on a GPU only seems to be over before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process could still take: of a GPU's memory, or of the host's without swapping; None where the
    system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    info = Path("/proc/meminfo")
    if device.type == "cpu" and info.exists():
        line = next(line for line in info.read_text().splitlines() if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    return None


def usable_memory(device: torch.device, limit: int | None) -> int | None:
    """Bytes of a device's memory that a model may take: the limit, or what is free; None if nobody knows."""
    free = free_memory(device)
    if free is None:
        return limit
    return max(0, free - FREE_RESERVE) if limit is None else min(limit, free)


def avoid_fragmentation(device: torch.device) -> None:
    """Have PyTorch's memory on a GPU grow in place, so that what it reserves is hardly more than what is used.

    For a process that has not used the GPU's memory yet; PYTORCH_ALLOC_CONF, or its older name, has the last word.
    """
    if device.type == "cuda" and not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
        # Too late for the environment, which PyTorch has read by now; this is what its own deprecated
        # `torch.cuda.memory._set_allocator_settings` names in its place.
        torch._C._accelerator_setAllocatorSettings("expandable_segments:True")


def limit_memory(device: torch.device, count: int | None) -> None:
    """Have PyTorch take no more than so many bytes of a GPU's memory, or as many as there are again."""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        total = torch.cuda.get_device_properties(index).total_memory
        torch.cuda.set_per_process_memory_fraction(1.0 if count is None else min(1.0, count / total), index)


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement where the device can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Bytes: on CUDA the most allocated since the last reset, elsewhere the process's peak resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        # Linux also has ru_maxrss, but a child process inherits its parent's.
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    import resource  # not on Windows, where this program does not run

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def host_memory(count: int, *, page_locked: bool) -> tuple[Tensor, str | None]:
    """So many bytes to read into, and, where page-locked ones are wanted and the host gives none, what a user should
    know about that."""
    if page_locked:
        try:
            return torch.empty(count, dtype=torch.uint8, pin_memory=True), None
        except RuntimeError as error:  # the host's limit on locked memory
            reason = str(error).splitlines()[0]
            note = f"the host gives no page-locked memory, so that weights come more slowly ({reason})"
            return torch.empty(count, dtype=torch.uint8), note
    return torch.empty(count, dtype=torch.uint8), None
