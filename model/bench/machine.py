"""What this machine is: the facts that decide how a model runs on it."""

import os
import platform
from dataclasses import dataclass

import torch

from model.backends.select import device_obstacle
from model.devices import free_memory
from model.network.configuration import ModelConfig


@dataclass(frozen=True)
class Machine:
    """Attributes:
    device: its name.
    memory: bytes of the device's memory in all, and free; None where the system does not tell.
    host_memory: the host's free memory, in bytes, likewise.
    kernel_obstacle: why compiled kernels cannot be used on a GPU, or None; also None on a CPU, which has none.
    """

    python: str
    torch: str
    device: str
    memory: tuple[int, int] | None
    host_memory: int | None
    cores: int
    gpus: int
    on_gpu: bool
    kernel_obstacle: str | None


def describe_machine(device: torch.device, config: ModelConfig) -> Machine:
    """As it is now."""
    on_cuda = device.type == "cuda"
    memory = None
    if on_cuda:
        free, total = torch.cuda.mem_get_info(device)
        memory = total, free
    elif (free_host := free_memory(torch.device("cpu"))) is not None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), free_host
    return Machine(
        platform.python_version(),
        torch.__version__,
        torch.cuda.get_device_name(device) if on_cuda else f"{platform.machine()} {device.type}",
        memory,
        free_memory(torch.device("cpu")),
        os.cpu_count() or 1,
        torch.cuda.device_count(),
        on_cuda,
        device_obstacle(config, torch.cuda.get_device_capability(device)) if on_cuda else None,
    )
