"""Tensors of safetensors files."""

from pathlib import Path

import torch

from model.checkpoint.safetensors_header import read_header
from model.checkpoint.stored_tensor import StoredTensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "F8_E4M3": torch.float8_e4m3fn,
}


def safetensors_tensors(file: Path) -> list[StoredTensor]:
    """Return the tensors of a file as they are stored; errors as for `read_header`."""
    entries = read_header(file)
    return [StoredTensor(file, each.name, DTYPES[each.dtype], each.shape, each.start, each.stop) for each in entries]
