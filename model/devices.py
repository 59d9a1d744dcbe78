"""The device of a run: its choice, waiting for it, and its memory. `model.device_kinds` lists each kind's abilities."""

import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from config.operating_system import peak_resident_bytes
from model.device_kinds import KINDS, DeviceKind
from model.errors import DeviceError

FREE_RESERVE = 512 * 2**20
"""Bytes of a device's free memory that are left to other programs if no limit is set."""
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def resolve_device(name: str) -> torch.device:
    """Return the device that a setting names. `auto` is the first CUDA device, else Apple's GPU, else the CPU.

    Raises:
        DeviceError: the machine does not have that device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in KINDS:
        raise DeviceError(f"there is no kind of device {name!r}", "use auto, cpu, cuda, cuda:1 or mps")
    if KINDS[device.type].can_be_many:
        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or (device.index or 0) >= count:
            raise DeviceError(
                f"device {name} is not there: PyTorch sees {count} CUDA devices",
                "use `device=auto` or `device=cpu`",
            )
    elif KINDS[device.type].is_gpu and not torch.backends.mps.is_available():
        raise DeviceError("device mps is not there", "use `device=auto` or `device=cpu`")
    return device


def require_device(name: str) -> None:
    """Raise DeviceError unless the machine has the device that a setting names."""
    if name not in ("auto", "cpu"):
        resolve_device(name)


def resolve_dtype(name: str) -> torch.dtype:
    """Return a dtype by name; raise DeviceError unless it is `bfloat16`, `float16` or `float32`.

    `model.memory.number_format.choose_dtype` replaces `auto` before.
    """
    if name not in DTYPES:
        raise DeviceError(f"there is no number format {name!r}", f"use {', '.join(DTYPES)}")
    return DTYPES[name]


def has_bfloat16_units(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 numbers at full speed.

    All GPUs count. Among CPUs, x86 needs AVX512-BF16 or AMX. For ARM, oneDNN knows whether the processor has the
    instructions and whether this build of PyTorch uses them.
    """
    if DeviceKind.of(device).is_gpu:
        return True
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def compute_capability(device: torch.device) -> tuple[int, int]:
    """Return the compute capability of a CUDA device, and (0, 0) for any other."""
    return torch.cuda.get_device_capability(device) if DeviceKind.of(device).has_streams else (0, 0)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all work that was queued on it."""
    kind = DeviceKind.of(device)
    if kind.has_streams:
        torch.cuda.synchronize(device)
    elif kind.is_gpu:
        torch.mps.synchronize()


def record_event(device: torch.device) -> Callable[[], None]:
    """Return a function that waits for the work queued up to now, but for no later work."""
    kind = DeviceKind.of(device)
    if not kind.has_streams:
        return torch.mps.synchronize if kind.is_gpu else lambda: None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event.synchronize


def new_stream(device: torch.device) -> torch.cuda.Stream | None:
    """Return a new stream, or None on a device without streams."""
    return torch.cuda.Stream(device) if DeviceKind.of(device).has_streams else None


def copy_to_host(token: Tensor) -> Callable[[], int]:
    """Start to copy a number, () int64, to the host. Return a function that waits for the number and returns it."""
    if not DeviceKind.of(token.device).has_streams:
        return lambda: int(token)
    memory, _ = host_memory(token.nbytes, page_locked=True)
    host = memory.view(torch.long)
    host.copy_(token.view(1), non_blocking=True)
    arrived = record_event(token.device)

    def number() -> int:
        arrived()
        return int(host)

    return number


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that this process could still allocate: on a GPU, or on the host without swapping. None if the
    system does not report them."""
    kind = DeviceKind.of(device)
    if kind.has_streams:
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    info = Path("/proc/meminfo")
    if not kind.is_gpu and info.exists():
        line = next(line for line in info.read_text().splitlines() if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    return None


def usable_memory(device: torch.device, limit: int | None) -> int | None:
    """Return the bytes that a model may use: the limit, but at most the free memory. None if neither is known."""
    free = free_memory(device)
    if free is None:
        return limit
    return max(0, free - FREE_RESERVE) if limit is None else min(limit, free)


def avoid_fragmentation(device: torch.device) -> None:
    """Let PyTorch's memory on a GPU grow in place, so that it reserves hardly more than it uses.

    Call it before the process uses the GPU's memory. PYTORCH_ALLOC_CONF, or its older name, takes precedence.
    """
    is_set = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys()
    if DeviceKind.of(device).has_streams and not is_set:
        # PyTorch has read the environment by now. Its deprecated `torch.cuda.memory._set_allocator_settings` names
        # this function as its replacement.
        torch._C._accelerator_setAllocatorSettings("expandable_segments:True")


def limit_memory(device: torch.device, count: int | None) -> None:
    """Limit PyTorch to `count` bytes of a GPU's memory; None removes the limit."""
    if DeviceKind.of(device).has_streams:
        index = torch.cuda.current_device() if device.index is None else device.index
        total = torch.cuda.get_device_properties(index).total_memory
        torch.cuda.set_per_process_memory_fraction(1.0 if count is None else min(1.0, count / total), index)


def return_free_memory(device: torch.device) -> None:
    """Return memory that PyTorch has reserved and does not use to the device."""
    if DeviceKind.of(device).has_streams:
        torch.cuda.empty_cache()


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of `peak_memory` if the device supports it."""
    if DeviceKind.of(device).has_streams:
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Return bytes: on CUDA the most allocated since the last reset, elsewhere the process's peak resident set."""
    if DeviceKind.of(device).has_streams:
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        # Linux also has ru_maxrss, but a child process inherits its parent's.
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    return peak_resident_bytes() or 0


def host_memory(count: int, *, page_locked: bool) -> tuple[Tensor, str | None]:
    """Allocate `count` bytes of host memory to read into.

    Returns:
        The bytes, and a notice for the user if the host refused page-locked memory, else None.
    """
    if page_locked:
        try:
            return torch.empty(count, dtype=torch.uint8, pin_memory=True), None
        except RuntimeError as error:  # the host's limit on locked memory
            reason = str(error).splitlines()[0]
            note = f"the host gives no page-locked memory, so weights load more slowly ({reason})"
            return torch.empty(count, dtype=torch.uint8), note
    return torch.empty(count, dtype=torch.uint8), None
