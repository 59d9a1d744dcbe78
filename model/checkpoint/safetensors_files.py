"""The safetensors files of a checkpoint folder: which there are, what they hold, and their bytes, block by block.

Reading is plain file I/O into a few reused buffers rather than a memory map: mapped pages count towards the
process's resident memory until the map is closed, and a checkpoint is larger than most hosts.
"""

import json
import math
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint.file_names import INDEX_FILE, SINGLE_FILE
from model.devices import host_memory
from model.errors import CheckpointError

CHUNK_BYTES = 4 * 2**20
READERS = min(4, os.cpu_count() or 1)
_SHORT_RUNS = threading.Lock()
STORED_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in a file; `start` and `stop` are byte positions in it."""

    file: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a checkpoint folder by name, from the headers of its files; no weights are read.

    Raises:
        CheckpointError: there are no weights, the index is damaged or names a missing shard, a shard is
            truncated or no safetensors file, or a tensor is of a type that cannot be loaded or stands in two shards.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in _shards(folder):
        for tensor in _read_header(file):
            if tensor.name in tensors:
                raise CheckpointError(
                    f"{tensor.name} stands in two files: {tensors[tensor.name].file} and {file}",
                    "fetch the checkpoint again",
                )
            tensors[tensor.name] = tensor
    return tensors


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX_FILE
    if not index.exists():
        single = folder / SINGLE_FILE
        if single.exists():
            return [single]
        raise CheckpointError(
            f"{folder} holds no weights: neither {INDEX_FILE} nor {SINGLE_FILE} is there",
            "fetch the checkpoint again, or give the folder that holds the weights",
        )
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not all(isinstance(name, str) for name in names):
            raise TypeError("weight_map holds something else than file names")
    except OSError as error:
        raise CheckpointError(f"{index} cannot be read: {error.strerror}", "check its permissions") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index} is damaged: it is no JSON object with a weight_map of tensor and file names",
            "fetch the file again",
        ) from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index} names {len(missing)} of {len(names)} shards that are not there: {', '.join(missing)}",
            "fetch the missing files; a download that was cut off goes on where it stopped",
        )
    return [folder / name for name in names]


def _read_header(file: Path) -> list[StoredTensor]:
    """Format: 8 bytes little-endian length, that much JSON, then the data (huggingface/safetensors, README)."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > size - 8:
                raise ValueError("its header is cut off")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        base = 8 + length
        tensors = []
        for name, entry in header.items():
            start, stop = entry["data_offsets"]
            if entry["dtype"] not in STORED_DTYPES:
                raise CheckpointError(
                    f"{file}: tensor {name} is stored as {entry['dtype']}, which cannot be loaded",
                    f"convert it to one of {', '.join(STORED_DTYPES)}",
                )
            dtype, shape = STORED_DTYPES[entry["dtype"]], tuple(entry["shape"])
            if stop - start != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"tensor {name} has {stop - start} bytes, which do not make {shape}")
            tensors.append(StoredTensor(file, name, dtype, shape, base + start, base + stop))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}", "check its permissions") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is no readable safetensors file: {error}", "fetch the file again") from error
    expected = max((tensor.stop for tensor in tensors), default=base)
    if size < expected:
        raise CheckpointError(
            f"{file} is truncated: {size:,} of {expected:,} bytes",
            "fetch the file again: the download was cut off",
        )
    return tensors


@dataclass(frozen=True)
class TensorPart:
    """The part of a tensor that is read: `count` of its rows (axis 0) or of its columns (axis 1) from `start` on.

    Its elements are numbered as those of a tensor of its own.
    """

    tensor: StoredTensor
    axis: int
    start: int
    count: int

    @classmethod
    def whole(cls, tensor: StoredTensor) -> "TensorPart":
        return cls(tensor, 0, 0, tensor.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.count if axis == self.axis else side for axis, side in enumerate(self.tensor.shape))

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.tensor.dtype.itemsize

    @property
    def runs(self) -> tuple[int, int, int]:
        """How its bytes lie in the file: position and length of the first run, and the distance from one run to the
        next. Rows are one run; columns are one for each row."""
        shape, itemsize = self.tensor.shape, self.tensor.dtype.itemsize
        inner = math.prod(shape[self.axis + 1 :]) * itemsize
        return self.tensor.start + self.start * inner, self.count * inner, shape[self.axis] * inner


@dataclass(frozen=True)
class Chunk:
    """A run of a tensor's elements, or of a piece of it: `data` (1-D, valid while it is being used) begins at
    `first`."""

    tensor: StoredTensor
    first: int
    data: Tensor


def read_chunks(pieces: Iterable[TensorPart], use: Callable[[Chunk], None], pinned: bool = False) -> Generator[int]:
    """Read pieces in the order of the files, several threads at a time; yield the bytes of each block done.

    The thread that read a block also uses it: writing to new memory takes longer than reading from the page cache,
    and so is shared among the threads as well. Closing the iterator ends the reading.

    Args:
        use: called for each block, from several threads at once.
        pinned: read into page-locked memory, from which copies to a GPU are fast, if the host gives any.

    Raises:
        CheckpointError: a file cannot be read, or ends early.
    """
    ordered = sorted(pieces, key=lambda piece: (str(piece.tensor.file), piece.tensor.start))
    own = threading.local()

    def read(part: tuple[TensorPart, int, int]) -> int:
        piece, first, count = part
        tensor = piece.tensor
        if not hasattr(own, "buffer"):
            own.buffer, _ = host_memory(CHUNK_BYTES, page_locked=pinned)
        data = own.buffer[:count]
        _read_part(descriptors[tensor.file], piece, first, data)
        use(Chunk(tensor, first // tensor.dtype.itemsize, data.view(tensor.dtype)))
        return count

    with ExitStack() as opened:
        files = {piece.tensor.file: None for piece in ordered}
        descriptors = {file: opened.enter_context(file.open("rb", buffering=0)).fileno() for file in files}
        pool = opened.enter_context(ThreadPoolExecutor(READERS, "read weights"))
        opened.callback(pool.shutdown, cancel_futures=True)  # also where `map` was stopped while handing out the work
        yield from pool.map(read, _chunks_of(ordered))


def _chunks_of(pieces: Iterable[TensorPart]) -> Iterator[tuple[TensorPart, int, int]]:
    """(piece, first byte within it, bytes) of each block."""
    for piece in pieces:
        for start in range(0, piece.nbytes, CHUNK_BYTES):
            yield piece, start, min(CHUNK_BYTES, piece.nbytes - start)


def _read_part(descriptor: int, piece: TensorPart, first: int, target: Tensor) -> None:
    """Fill `target` with a piece's bytes from `first` on, run by run."""
    begin, length, distance = piece.runs
    view = memoryview(target.numpy().data)
    done = 0
    # Thousands of short runs: threads that read them at the same time would spend it on handing over the interpreter.
    with _SHORT_RUNS if length < piece.nbytes else nullcontext():
        while done < len(view):
            run, skipped = divmod(first + done, length)
            count = min(length - skipped, len(view) - done)
            _read_at(descriptor, piece.tensor, begin + run * distance + skipped, view[done : done + count])
            done += count


def parts_of(tensors: Iterable[StoredTensor], most: int) -> Iterator[tuple[StoredTensor, int, int]]:
    """(tensor, index of the first element, bytes) of each block of at most so many bytes."""
    for tensor in tensors:
        size = tensor.stop - tensor.start
        for start in range(0, size, most):
            yield tensor, start // tensor.dtype.itemsize, min(most, size - start)


def read_exactly(descriptor: int, tensor: StoredTensor, first: int, target: Tensor) -> None:
    """Read as many bytes as `target` (uint8, in the host's memory) has, from element `first` of a tensor on.

    Raises:
        CheckpointError: the file cannot be read, or ends early.
    """
    _read_at(descriptor, tensor, tensor.start + first * tensor.dtype.itemsize, memoryview(target.numpy().data))


def _read_at(descriptor: int, tensor: StoredTensor, place: int, view: memoryview) -> None:
    while view:
        try:
            count = os.preadv(descriptor, [view], place)
        except OSError as error:
            raise CheckpointError(
                f"{tensor.file} cannot be read: {error.strerror}", "check the disk, or fetch the file again"
            ) from error
        if not count:
            raise CheckpointError(f"{tensor.file} ends in the middle of {tensor.name}", "fetch the file again")
        view, place = view[count:], place + count
