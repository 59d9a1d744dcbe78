"""Facts about this machine that decide how a model runs on it."""

import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from config.operating_system import total_memory
from model.backends.select import device_obstacle
from model.checkpoint.quantization import format_advice
from model.device_kinds import DeviceKind
from model.devices import compute_capability, free_memory
from model.network.configuration import ModelConfig


@dataclass(frozen=True)
class Machine:
    """This machine and one of its devices.

    Attributes:
        python, torch: versions.
        device: the device's name.
        memory: total and free bytes of the device's memory; None if the system does not report them.
        host_memory: free bytes of the host's memory; None if the system does not report them.
        eight_bits: a sentence that names the eight-bit format that suits the device.
        kernel_obstacle: why compiled kernels cannot be used on the GPU; None if they can, and on a CPU.
    """

    python: str
    torch: str
    device: str
    memory: tuple[int, int] | None
    host_memory: int | None
    cores: int
    gpus: int
    eight_bits: str
    on_gpu: bool
    kernel_obstacle: str | None


def device_name(device: torch.device) -> str:
    """Return a GPU's product name, or the architecture and the kind of device.

    A CPU's name and instructions follow, if they are known: `x86_64 cpu, AMD EPYC, AVX2`.
    """
    if DeviceKind.of(device).has_streams:
        return torch.cuda.get_device_name(device)
    name = f"{platform.machine()} {device.type}"
    if DeviceKind.of(device).is_gpu:
        return name
    known = (cpu_name(), torch.backends.cpu.get_cpu_capability())
    return ", ".join((name, *(each for each in known if each and each != "DEFAULT")))


def cpu_name() -> str:
    """Return the name of this machine's processor; empty if the system does not tell it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return ""


def describe_machine(device: torch.device, config: ModelConfig) -> Machine:
    """Return the facts, with the memory that is free now."""
    on_cuda = DeviceKind.of(device).has_streams
    memory = None
    if on_cuda:
        free, total = torch.cuda.mem_get_info(device)
        memory = total, free
    elif (free_host := free_memory(torch.device("cpu"))) is not None and (total_host := total_memory()) is not None:
        memory = total_host, free_host
    return Machine(
        platform.python_version(),
        torch.__version__,
        device_name(device),
        memory,
        free_memory(torch.device("cpu")),
        os.cpu_count() or 1,
        torch.cuda.device_count(),
        format_advice(device),
        on_cuda,
        device_obstacle(config, compute_capability(device)) if on_cuda else None,
    )
