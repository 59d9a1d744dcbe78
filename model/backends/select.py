"""What makes a loaded network fast on its device, applied from outside."""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

import torch

from model.checkpoint.quantization import Fp8Linear
from model.memory.layer_buffers import is_whole
from model.network.configuration import ModelConfig
from model.network.sensenova import SenseNovaU1
from model.parallel.collectives import ProcessGroups
from model.parallel.guidance_parallel import GuidanceGroup
from model.parallel.tensor_parallel import sum_blocks
from model.sampling.backend import Backend

LEAST_CAPABILITY = (8, 0)
"""Ampere: the first GPUs that multiply in bfloat16."""


def select_backend(network: SenseNovaU1, *, enforce_eager: bool, groups: ProcessGroups | None = None) -> Backend:
    """The fastest runtime there is for a network, which may be changed in place.

    On CUDA, unless `enforce_eager` forbids it, kernels are compiled when they first run. Elsewhere the network runs as
    it is written; where kernels cannot be compiled it does, too, and the runtime's note says why.

    Args:
        groups: of the ranks that share the network, of which this one has a part, joined by `join_parts`.
    """
    backend = _fastest(network, enforce_eager, groups)
    backend.layer_by_layer = not is_whole(network.gen)
    return backend


def _fastest(network: SenseNovaU1, enforce_eager: bool, groups: ProcessGroups | None) -> Backend:
    if network.device.type != "cuda" or enforce_eager:
        return _plain(network, groups)
    reason = kernel_obstacle(network, torch.cuda.get_device_capability(network.device))
    if reason is not None:
        backend = _plain(network, groups)
        backend.note = f"this runs as with `enforce_eager`, which is slower: {reason}"
        return backend
    from model.backends.cuda import CudaBackend  # needs Triton, which comes with PyTorch for CUDA alone

    return CudaBackend(network, groups)


def _plain(network: SenseNovaU1, groups: ProcessGroups | None) -> Backend:
    if groups is None:
        return Backend(network)
    sum_blocks(network, groups)
    return Backend(network, GuidanceGroup(groups, network.config.transformer))


def kernel_obstacle(network: SenseNovaU1, capability: tuple[int, int]) -> str | None:
    """Why kernels cannot be compiled for a network on a GPU of this compute capability, or None."""
    if any(isinstance(module, Fp8Linear) and not module.in_hardware for module in network.modules()):
        return "the compiled kernels multiply eight-bit numbers only as this GPU does, which has no units for them"
    return device_obstacle(network.config, capability)


def device_obstacle(config: ModelConfig, capability: tuple[int, int]) -> str | None:
    """The same for a network that is not there yet, as far as the device and this installation go."""
    head_dim = config.transformer.head_dim
    if torch.version.cuda is None:
        return "the compiled kernels are for NVIDIA's GPUs"
    if capability < LEAST_CAPABILITY:
        needed = ".".join(map(str, LEAST_CAPABILITY))
        return f"the compiled kernels need compute capability {needed}, this GPU has {'.'.join(map(str, capability))}"
    if head_dim < 16 or head_dim & (head_dim - 1):
        return f"the compiled kernels need heads as wide as a power of two, these have {head_dim}"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not there, which comes with PyTorch for CUDA: install PyTorch anew"
    # Triton builds a small C library for each kernel.
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "compiling kernels needs a C compiler: install gcc"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "compiling kernels needs Python's headers: install python3-dev (or python3-devel)"
    return None
