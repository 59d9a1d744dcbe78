"""Weight files of a converted checkpoint: which tensors each has, and how they are computed and written.

An eight-bit weight `NAME.weight` has the scales of its rows in `NAME.weight_scale`. An int8 weight also has
`NAME.comfy_quant`, JSON that names the rotation. These are the names of the published int8 files, so other programs
read them, too. Tensors that stay as they are keep their number format.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from model.checkpoint.fp8 import quantize_rows
from model.checkpoint.int8 import quantize_weight
from model.checkpoint.scaled_tensors import DESCRIPTION, SCALES, WEIGHT
from model.checkpoint.stored_tensor import Chunk, StoredTensor, TensorPart
from model.checkpoint.tensor_files import read_chunks
from model.errors import CheckpointError
from model.network.projection import QuantizedRows
from model.network.rotation import rotation_group

PART_NUMBERS = 2**24
"""Numbers that are in memory at once: 64 MiB in float32, and a few copies of them."""
NAMES = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16"}
FORMATS = {"int8": "I8", "fp8": "F8_E4M3"}
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "F8_E4M3": 1}
"""Bytes of a number by its format's name in safetensors files."""


@dataclass(frozen=True)
class Written:
    """A tensor of a new file."""

    name: str
    format: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * SIZES[self.format]


@dataclass(frozen=True)
class Conversion:
    """The conversion of one tensor of the source.

    Attributes:
        format: `int8`, `fp8`, or empty if the tensor stays as it is.
    """

    source: StoredTensor
    format: str

    @property
    def written(self) -> list[Written]:
        """The tensors of the new file: the numbers first, then the scales and the description."""
        name, shape = self.source.name, self.source.shape
        if not self.format:
            return [Written(name, NAMES[self.source.dtype], shape)]
        base = name.removesuffix(WEIGHT)
        tensors = [Written(name, FORMATS[self.format], shape), Written(base + SCALES[0], "F32", (shape[0], 1))]
        if self.format == "int8":
            tensors.append(Written(base + DESCRIPTION, "U8", (len(self.description),)))
        return tensors

    @property
    def description(self) -> bytes:
        """The JSON of an int8 weight's rotation."""
        group = rotation_group(self.source.shape[1])
        fields = {"format": "int8_tensorwise", "convrot": group > 1, "convrot_groupsize": group}
        return json.dumps(fields if group > 1 else {"format": "int8_tensorwise"}, separators=(",", ":")).encode()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors of the new file."""
        return sum(tensor.nbytes for tensor in self.written)

    def quantized(self, numbers: Tensor) -> QuantizedRows:
        """Quantize rows as they are quantized while a model loads with `dtype=bfloat16`."""
        rows = numbers.to(torch.bfloat16)
        return quantize_weight(rows, rotation_group(rows.shape[1])) if self.format == "int8" else quantize_rows(rows)


class ShardFile:
    """A weight file to write: name, tensors, and where each of them begins."""

    def __init__(self, name: str, conversions: Sequence[Conversion]) -> None:
        self.name = name
        self.conversions = conversions
        # Wide numbers first, as the format's own library writes them: every tensor then begins at a multiple of its
        # numbers' size. Descriptions precede weights, so that a weight ends the file, as checks of its size expect.
        tensors = [tensor for conversion in conversions for tensor in conversion.written]
        tensors.sort(key=lambda tensor: (-SIZES[tensor.format], tensor.format != "U8"))
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        self._offsets: dict[str, int] = {}
        end = 0
        for tensor in tensors:
            self._offsets[tensor.name] = end
            end += tensor.nbytes
            place = [self._offsets[tensor.name], end]
            entries[tensor.name] = {"dtype": tensor.format, "shape": list(tensor.shape), "data_offsets": place}
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.header = len(text).to_bytes(8, "little") + text
        self.nbytes = len(self.header) + end

    @property
    def tensor_names(self) -> list[str]:
        """Names of the tensors."""
        return list(self._offsets)

    def write(self, stream: IO[bytes]) -> Iterator[int]:
        """Write the file, and yield the bytes of the source that each step has read.

        Raises:
            CheckpointError: the source cannot be read, or has NaN or infinity.
            OSError: the file cannot be written.
        """
        stream.write(self.header)
        for conversion in self.conversions:
            numbers, *others = (len(self.header) + self._offsets[tensor.name] for tensor in conversion.written)
            row = math.prod(conversion.source.shape[1:])
            if conversion.format == "int8":
                _write_at(stream, others[1], conversion.description)
            for first, rows in _row_parts(conversion.source):
                if conversion.format:
                    quantized = conversion.quantized(rows.view(-1, row))
                    if not torch.isfinite(quantized.scales).all():
                        raise CheckpointError(
                            f"{conversion.source.file}: {conversion.source.name} contains NaN or infinity",
                            "fetch the checkpoint again",
                        )
                    _write_at(stream, numbers + first * row, _bytes(quantized.values))
                    _write_at(stream, others[0] + first * 4, _bytes(quantized.scales))
                else:
                    _write_at(stream, numbers + first * row * rows.itemsize, _bytes(rows))
                yield rows.nbytes


def split_into_files(conversions: Sequence[Conversion], most_bytes: int) -> list[ShardFile]:
    """Return weight files of at most `most_bytes`, unless a single tensor is larger."""
    files: list[list[Conversion]] = [[]]
    size = 0
    for conversion in conversions:
        if files[-1] and size + conversion.nbytes > most_bytes:
            files.append([])
            size = 0
        files[-1].append(conversion)
        size += conversion.nbytes
    count = len(files)
    names = (f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1))
    return [ShardFile(name, each) for name, each in zip(names, files, strict=True)]


def sha256_of(file: Path, on_bytes: Callable[[int], None]) -> str:
    """Return a file's sha256; `on_bytes` is called with the size of each run that has been read."""
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while data := stream.read(8 * 2**20):
            digest.update(data)
            on_bytes(len(data))
    return digest.hexdigest()


def _row_parts(tensor: StoredTensor) -> Iterator[tuple[int, Tensor]]:
    """Yield runs of a tensor's rows: number of the first one, and their numbers, 1-D."""
    row = math.prod(tensor.shape[1:])
    step = max(1, PART_NUMBERS // row)
    for first in range(0, tensor.shape[0], step):
        part = TensorPart(tensor, 0, first, min(step, tensor.shape[0] - first))
        numbers = torch.empty(math.prod(part.shape), dtype=tensor.dtype)
        _read(part, numbers)
        yield first, numbers


def _read(part: TensorPart, numbers: Tensor) -> None:
    def place(chunk: Chunk) -> None:
        numbers[chunk.first : chunk.first + chunk.data.numel()] = chunk.data

    with closing(read_chunks([part], place)) as steps:
        for _ in steps:
            pass


def _write_at(stream: IO[bytes], position: int, data: bytes | memoryview) -> None:
    stream.seek(position)
    stream.write(data)


def _bytes(numbers: Tensor) -> memoryview:
    return memoryview(numbers.contiguous().view(torch.uint8).numpy().data).cast("B")
