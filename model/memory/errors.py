"""Errors of memory that ran out, whoever found it out."""

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
"""How PyTorch says so where it has no error class for it, or where a library of the device's maker ran out."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of the host or of the device, was what was missing; perhaps hidden by an error that followed, as
    at the end of a CUDA graph's capture."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        return True
    return error.__context__ is not None and ran_out_of_memory(error.__context__)


@contextmanager
def memory_errors(what: str, hint: Callable[[], str]) -> Iterator[None]:
    """Turn the allocators' errors into a DeviceMemoryError that says what did not fit and what would help."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        # Whoever keeps the new error must not keep the caches and activations of the old one's frames.
        traceback.clear_frames(error.__traceback__)
        raise DeviceMemoryError(f"out of memory: {what} does not fit", hint()) from error
