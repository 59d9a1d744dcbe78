"""The choice of a backend for a loaded network."""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

import torch

from model.backends.gpu import KERNELS, GpuAttention, GpuOperations
from model.device_kinds import DeviceKind
from model.devices import compute_capability
from model.network.configuration import ModelConfig
from model.network.operations import Operations
from model.network.sensenova import SenseNovaU1
from model.parallel.collectives import ProcessGroups
from model.parallel.guidance_parallel import GuidanceGroup
from model.parallel.tensor_parallel import block_reduction
from model.sampling.backend import Backend

LEAST_CAPABILITY = (8, 0)
"""Ampere: the first GPUs that multiply in bfloat16."""


def select_backend(network: SenseNovaU1, *, enforce_eager: bool, groups: ProcessGroups | None = None) -> Backend:
    """Return the fastest backend for a network, and set the operations of its towers.

    On CUDA, unless `enforce_eager` forbids it, kernels are compiled when they first run. Otherwise the network runs in
    plain PyTorch. If that is because kernels cannot be compiled, the backend's note gives the reason.

    Args:
        groups: process groups of the ranks that share the network. `network` is this rank's shard, after
            `apply_tensor_parallel`.
    """
    backend = _fastest(network, enforce_eager, groups)
    backend.layer_by_layer = not network.gen.blocks.fit_together
    return backend


def _fastest(network: SenseNovaU1, enforce_eager: bool, groups: ProcessGroups | None) -> Backend:
    if not DeviceKind.of(network.device).compiles_kernels or enforce_eager:
        return _plain(network, groups)
    reason = kernel_obstacle(network, compute_capability(network.device))
    if reason is not None:
        backend = _plain(network, groups)
        backend.note = f"this runs as with `enforce_eager`, which is slower: {reason}"
        return backend
    from model.backends.cuda import CudaBackend  # needs Triton, which only PyTorch for CUDA brings

    return CudaBackend(network, groups)


def _plain(network: SenseNovaU1, groups: ProcessGroups | None) -> Backend:
    set_plain_operations(network, groups)
    return Backend(network, GuidanceGroup(groups, network.config.transformer) if groups else None)


def set_plain_operations(network: SenseNovaU1, groups: ProcessGroups | None = None) -> None:
    """Set PyTorch's own operations for the network's device."""
    und, gen = (groups.und, groups.gen) if groups else (None, None)
    kind = DeviceKind.of(network.device)
    if not kind.is_gpu:
        network.und.operations = Operations(block_reduction(und))
        network.gen.operations = Operations(block_reduction(gen))
        return
    groups_heads = compute_capability(network.device) >= LEAST_CAPABILITY
    attention = GpuAttention(groups_heads=groups_heads, largest_array=kind.largest_array)
    network.und.operations = GpuOperations(attention, block_reduction(und))
    kernels = list(KERNELS) if kind.chooses_attention else []
    network.gen.operations = GpuOperations(attention, block_reduction(gen), kernels)


def kernel_obstacle(network: SenseNovaU1, capability: tuple[int, int]) -> str | None:
    """Return the reason why kernels cannot be compiled for a network and this compute capability, or None."""
    if any(projection.is_emulated for tower in (network.und, network.gen) for projection in tower.projections()):
        return "the compiled kernels need a GPU with units for eight-bit numbers, and this one has none"
    return device_obstacle(network.config, capability)


def device_obstacle(config: ModelConfig, capability: tuple[int, int]) -> str | None:
    """Return the reason why kernels cannot be compiled for a configuration on this installation, or None."""
    head_dim = config.transformer.head_dim
    if torch.version.cuda is None:
        return "the compiled kernels are for NVIDIA's GPUs"
    if capability < LEAST_CAPABILITY:
        needed = ".".join(map(str, LEAST_CAPABILITY))
        return f"the compiled kernels need compute capability {needed}, this GPU has {'.'.join(map(str, capability))}"
    if head_dim < 16 or head_dim & (head_dim - 1):
        return f"the compiled kernels need a head width that is a power of two, this model's is {head_dim}"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed, which PyTorch for CUDA brings: install PyTorch again"
    # Triton builds a small C library for each kernel.
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "compiling kernels needs a C compiler: install gcc"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "compiling kernels needs Python's headers: install python3-dev (or python3-devel)"
    return None
