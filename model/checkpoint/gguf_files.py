"""Tensors of GGUF files."""

from pathlib import Path

import torch

from model.checkpoint.gguf_blocks import FORMATS
from model.checkpoint.gguf_header import read_gguf
from model.checkpoint.stored_tensor import Blocks, StoredTensor


def gguf_tensors(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a file by their official names; errors as for `read_gguf`."""
    tensors = {}
    for entry in read_gguf(file).tensors:
        block_format = FORMATS[entry.number]
        encoding = Blocks(block_format) if block_format.dtype is None else None
        dtype = block_format.dtype or torch.float32
        tensors[entry.name] = StoredTensor(file, entry.name, dtype, entry.shape, entry.start, entry.stop, encoding)
    return tensors
