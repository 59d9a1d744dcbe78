"""Out-of-memory errors of PyTorch and of the libraries that it uses."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from model.errors import DeviceMemoryError

OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "MPS backend out of memory",
    "CUDA error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Texts of out-of-memory errors for which PyTorch has no class."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether the host or the device ran out of memory. Another error may hide it, for example at the end of a
    CUDA graph's capture."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        return True
    return error.__context__ is not None and ran_out_of_memory(error.__context__)


@contextmanager
def memory_errors(what: str, hint: Callable[[], str]) -> Iterator[None]:
    """Turn allocators' errors into a DeviceMemoryError, which says that `what` does not fit and gives a hint."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        # The old error's frames hold caches and activations, which the new error must not keep alive.
        traceback.clear_frames(error.__traceback__)
        raise DeviceMemoryError(f"out of memory: {what} does not fit", hint()) from error
