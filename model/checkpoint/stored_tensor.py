"""Tensors in files, parts of them, and the encodings in which their numbers are stored."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from model.checkpoint.gguf_blocks import BlockFormat, dequantize
from model.network.rotation import rotate


class Encoding(Protocol):
    """The way from a tensor's bytes to its numbers, if they are not stored as numbers of a dtype.

    Attributes:
        name: of the format, such as `Q6_K` or `int8`.
        block_numbers, block_bytes: sizes of a block, which can only be decoded as a whole.
    """

    @property
    def name(self) -> str: ...

    @property
    def block_numbers(self) -> int: ...

    @property
    def block_bytes(self) -> int: ...

    def decode(self, data: Tensor, first: int) -> Tensor:
        """Return numbers, 1-D in float32 on the same device.

        Args:
            data: bytes of whole blocks, 1-D uint8.
            first: number of their first element in the tensor.
        """


@dataclass(frozen=True)
class Blocks:
    """Numbers in blocks of a GGUF file."""

    block_format: BlockFormat

    @property
    def name(self) -> str:
        return self.block_format.size.name

    @property
    def block_numbers(self) -> int:
        return self.block_format.size.numbers

    @property
    def block_bytes(self) -> int:
        return self.block_format.size.nbytes

    def decode(self, data: Tensor, first: int) -> Tensor:
        """See `Encoding`."""
        return dequantize(data, self.block_format)


@dataclass(frozen=True, eq=False)
class ScaledRows:
    """Eight-bit numbers with a scale for each row of a matrix. A block is a row.

    Attributes:
        name: `int8`, or `fp8` for float8_e4m3fn.
        scales: (rows,), float32 on the host.
        columns: numbers in a row.
        group: numbers in a group of the rotation (`model.network.rotation`); 1 if the rows were not rotated.
    """

    name: Literal["int8", "fp8"]
    scales: Tensor = field(repr=False)
    columns: int
    group: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the stored numbers."""
        return torch.int8 if self.name == "int8" else torch.float8_e4m3fn

    @property
    def block_numbers(self) -> int:
        return self.columns

    @property
    def block_bytes(self) -> int:
        return self.columns

    def decode(self, data: Tensor, first: int) -> Tensor:
        """See `Encoding`."""
        rows = data.view(self.dtype).view(-1, self.columns).float()
        start = first // self.columns
        rows = rows * self.scales[start : start + len(rows), None].to(data.device)
        return rotate(rows, self.group).flatten()  # the rotation is its own inverse


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, which holds its data from byte `start` to byte `stop`.

    Attributes:
        dtype: of the numbers; float32 for those that have to be decoded.
        encoding: decodes the numbers; None if they are stored in `dtype`.
    """

    file: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int
    encoding: Encoding | None = None

    @property
    def row_unit(self) -> int:
        """The least number of rows that consist of whole blocks; 1 without an encoding."""
        if self.encoding is None:
            return 1
        return self.encoding.block_numbers // math.gcd(math.prod(self.shape[1:]), self.encoding.block_numbers)

    def rows(self, first: int, last: int) -> "StoredTensor":
        """Return rows `first` to `last` - 1 as a tensor. `row_unit` must divide both numbers, except for the end."""
        numbers, nbytes, encoding = 1, self.dtype.itemsize, self.encoding
        if encoding is not None:
            numbers, nbytes = encoding.block_numbers, encoding.block_bytes
        if isinstance(encoding, ScaledRows):
            encoding = replace(encoding, scales=encoding.scales[first:last])
        row = math.prod(self.shape[1:])
        start, stop = (self.start + number * row // numbers * nbytes for number in (first, last))
        return replace(
            self,
            name=f"{self.name}[{first}:{last}]",
            shape=(last - first, *self.shape[1:]),
            start=start,
            stop=stop,
            encoding=encoding,
        )


@dataclass(frozen=True)
class TensorPart:
    """The part of a tensor to read: `count` rows (axis 0) or columns (axis 1), from `start` on.

    Its elements are numbered from 0, like those of a whole tensor.
    """

    tensor: StoredTensor
    axis: int
    start: int
    count: int

    @classmethod
    def whole(cls, tensor: StoredTensor) -> "TensorPart":
        """Return a part that covers the whole tensor."""
        return cls(tensor, 0, 0, tensor.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the part."""
        return tuple(self.count if axis == self.axis else side for axis, side in enumerate(self.tensor.shape))

    @property
    def runs(self) -> tuple[int, int, int]:
        """The part's contiguous runs of bytes in the file: position of the first run, length of each, and distance
        between the starts of two. Rows form one run; columns form one run per row. Not for encoded tensors."""
        shape, itemsize = self.tensor.shape, self.tensor.dtype.itemsize
        inner = math.prod(shape[self.axis + 1 :]) * itemsize
        return self.tensor.start + self.start * inner, self.count * inner, shape[self.axis] * inner

    def pieces(self, most_bytes: int) -> Iterator["Piece"]:
        """Divide the part into pieces of at most `most_bytes` to read, but of whole rows if the tensor is encoded."""
        if self.tensor.encoding is None:
            itemsize = self.tensor.dtype.itemsize
            size = math.prod(self.shape) * itemsize
            for start in range(0, size, most_bytes):
                yield Piece(self, start // itemsize, min(most_bytes, size - start))
            return
        yield from self._encoded_pieces(self.tensor.encoding, most_bytes)

    def _encoded_pieces(self, encoding: Encoding, most_bytes: int) -> Iterator["Piece"]:
        """Rows are decoded as a whole: columns are cut out of them afterwards."""
        shape, block = self.tensor.shape, encoding.block_numbers
        row = math.prod(shape[1:])
        rows = range(self.start, self.start + self.count) if self.axis == 0 else range(shape[0])
        inner = math.prod(shape[2:])
        columns = (0, row) if self.axis == 0 else (self.start * inner, (self.start + self.count) * inner)
        unit = self.tensor.row_unit
        # Pieces that start inside a block also contain the rest of that block and of the last one.
        room = max(most_bytes - 2 * encoding.block_bytes, 0)
        step = max(room // encoding.block_bytes * block // row // unit, 1) * unit
        for begin in range(rows.start, rows.stop, step):
            window = Window.of(range(begin, min(begin + step, rows.stop)), row, columns, block)
            first = (begin - rows.start) * (columns[1] - columns[0])
            yield Piece(self, first, window.blocks(block) * encoding.block_bytes, window)


@dataclass(frozen=True)
class Window:
    """The numbers of a piece's decoded blocks that belong to the piece.

    Attributes:
        origin: number of the first decoded number in the tensor.
        skip: decoded numbers before the first row.
        rows, row: number of rows, and numbers in each.
        columns: first and last + 1 of a row's numbers that belong to the part.
    """

    origin: int
    skip: int
    rows: int
    row: int
    columns: tuple[int, int]

    @classmethod
    def of(cls, rows: range, row: int, columns: tuple[int, int], block: int) -> "Window":
        """Return the window of a tensor's rows, whose decoding starts with the block that holds the first number."""
        origin = rows.start * row // block * block
        return cls(origin, rows.start * row - origin, len(rows), row, columns)

    def blocks(self, block: int) -> int:
        """Return the number of blocks that hold the rows, for blocks of `block` numbers."""
        return -(-(self.skip + self.rows * self.row) // block)

    def cut(self, numbers: Tensor) -> Tensor:
        """Return the numbers that belong to the piece, 1-D."""
        rows = numbers[self.skip : self.skip + self.rows * self.row].view(self.rows, self.row)
        return rows[:, self.columns[0] : self.columns[1]].reshape(-1)


@dataclass(frozen=True)
class Piece:
    """Bytes of a part that are read at once.

    Attributes:
        first: number of the first element in the part.
        nbytes: bytes to read.
        window: where the numbers are after decoding; None if they are stored as they are.
    """

    part: TensorPart
    first: int
    nbytes: int
    window: Window | None = None

    def chunk(self, data: Tensor) -> "Chunk":
        """Return the chunk of these bytes (uint8) when they have been read."""
        tensor = self.part.tensor
        return Chunk(tensor, self.first, data.view(tensor.dtype) if self.window is None else data, self.window)


@dataclass(frozen=True)
class Chunk:
    """Consecutive elements of a tensor, or of a part of it, that are read at once.

    Attributes:
        first: number of the first element.
        data: the elements, 1-D, or the bytes that encode them; valid until `read_chunks`'s callback returns.
        window: where the elements are after decoding; None if `data` holds them.
    """

    tensor: StoredTensor
    first: int
    data: Tensor
    window: Window | None = None

    def numbers(self, device: torch.device | None = None, *, non_blocking: bool = False) -> Tensor:
        """Return the elements, 1-D. If they have to be decoded, this happens on `device`."""
        if self.window is None or self.tensor.encoding is None:
            return self.data
        data = self.data.to(device or self.data.device, non_blocking=non_blocking)
        return self.window.cut(self.tensor.encoding.decode(data, self.window.origin))

    def split(self, most_numbers: int) -> Iterator["Chunk"]:
        """Divide a chunk that has to be decoded into chunks of whole rows with about `most_numbers`. Decoding takes
        several times the memory of its result."""
        window, encoding = self.window, self.tensor.encoding
        if window is None or encoding is None:
            yield self
            return
        block, nbytes, row = encoding.block_numbers, encoding.block_bytes, window.row
        step = max(most_numbers // row // self.tensor.row_unit, 1) * self.tensor.row_unit
        start = (window.origin + window.skip) // row
        rows = range(start, start + window.rows)
        for begin in rows[::step]:
            own = Window.of(range(begin, min(begin + step, rows.stop)), row, window.columns, block)
            offset = (own.origin - window.origin) // block * nbytes
            data = self.data[offset : offset + own.blocks(block) * nbytes]
            yield Chunk(self.tensor, self.first + (begin - start) * (own.columns[1] - own.columns[0]), data, own)

    def stored_values(self, dtype: torch.dtype) -> Tensor:
        """Return the elements of an encoding whose numbers are of this eight-bit dtype, without their scales."""
        assert self.window is not None
        return self.window.cut(self.data.view(dtype))
