"""Safetensors files of a checkpoint folder: find them, read their headers, and read their tensors in chunks.

Tensors are read with plain file I/O into a few reused buffers, not through a memory map: mapped pages count towards
the process's resident memory until the map is closed, and a checkpoint is larger than the memory of most hosts.
"""

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

from config.json_files import parse_json, read_json
from model.checkpoint.file_names import INDEX_FILE, SINGLE_FILE
from model.devices import host_memory
from model.errors import CheckpointError

CHUNK_BYTES = 4 * 2**20
"""Size of the chunks in which tensors are read."""
LARGEST_HEADER = 100_000_000
"""Most bytes of a header; the limit of the format's own library."""
READERS = min(4, os.cpu_count() or 1)
"""Number of threads that read."""
_SHORT_RUNS = threading.Lock()
"""Held while a part with short runs is read."""
STORED_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, which holds its data from byte `start` to byte `stop`."""

    file: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return all tensors of a checkpoint folder by name. Only the headers of its files are read.

    Raises:
        CheckpointError: there are no weights, the index is damaged or names a missing file, a file is truncated or not
            in the safetensors format, or a tensor has an unsupported dtype or is stored in two files.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in _weight_files(folder):
        for tensor in _read_header(file):
            if tensor.name in tensors:
                raise CheckpointError(
                    f"{tensor.name} is stored in two files: {tensors[tensor.name].file} and {file}",
                    "fetch the checkpoint again",
                )
            tensors[tensor.name] = tensor
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that the index names, or the single file of a checkpoint without an index."""
    index = folder / INDEX_FILE
    if not index.exists():
        single = folder / SINGLE_FILE
        if single.exists():
            return [single]
        raise CheckpointError(
            f"{folder} has no weights: neither {INDEX_FILE} nor {SINGLE_FILE} exists",
            "fetch the checkpoint again, or name the folder that has the weights",
        )
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
        if not all(isinstance(name, str) and _is_file_name(name) for name in names):
            raise TypeError("weight_map must hold names of files in the folder only")
    except OSError as error:
        raise CheckpointError(f"{index} cannot be read: {error.strerror}", "check its permissions") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index} is damaged: it is not a JSON object with a weight_map of tensors and files in this folder",
            "fetch the file again",
        ) from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index} names {len(names)} files, of which {len(missing)} are missing: {', '.join(missing)}",
            "fetch the missing files; an interrupted download continues where it stopped",
        )
    return [folder / name for name in names]


def _is_file_name(name: str) -> bool:
    """Return whether a name is that of a file in the same folder: an index from a stranger may name other places."""
    return 0 < len(name) <= 255 and name not in (".", "..") and {"/", "\\", "\0"}.isdisjoint(name)


def _read_header(file: Path) -> list[StoredTensor]:
    """Read a file's header: its length in 8 bytes, little-endian, and JSON (huggingface/safetensors, README)."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > size - 8:
                raise ValueError("its header is incomplete")
            if length > LARGEST_HEADER:
                raise ValueError(f"its header has {length:,} bytes; {LARGEST_HEADER:,} are allowed")
            header = parse_json(stream.read(length))
        header.pop("__metadata__", None)
        base = 8 + length
        tensors = []
        for name, entry in header.items():
            start, stop = entry["data_offsets"]
            if entry["dtype"] not in STORED_DTYPES:
                raise CheckpointError(
                    f"{file}: tensor {name} is stored as {entry['dtype']}, which is not supported",
                    f"convert it to one of {', '.join(STORED_DTYPES)}",
                )
            dtype, shape = STORED_DTYPES[entry["dtype"]], tuple(entry["shape"])
            if any(type(number) is not int or number < 0 for number in (start, stop, *shape)):
                raise ValueError(f"tensor {name[:100]} has numbers that are not whole or negative")
            if stop - start != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"tensor {name} has {stop - start} bytes, which do not match shape {shape}")
            tensors.append(StoredTensor(file, name, dtype, shape, base + start, base + stop))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}", "check its permissions") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is not a readable safetensors file: {error}", "fetch the file again") from error
    expected = max((tensor.stop for tensor in tensors), default=base)
    if size < expected:
        raise CheckpointError(
            f"{file} is truncated: {size:,} of {expected:,} bytes",
            "fetch the file again: its download was interrupted",
        )
    return tensors


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
    def nbytes(self) -> int:
        """Size of the part in bytes."""
        return math.prod(self.shape) * self.tensor.dtype.itemsize

    @property
    def runs(self) -> tuple[int, int, int]:
        """The part's contiguous runs of bytes in the file: position of the first run, length of each, and distance
        between the starts of two. Rows form one run; columns form one run per row."""
        shape, itemsize = self.tensor.shape, self.tensor.dtype.itemsize
        inner = math.prod(shape[self.axis + 1 :]) * itemsize
        return self.tensor.start + self.start * inner, self.count * inner, shape[self.axis] * inner


@dataclass(frozen=True)
class Chunk:
    """Consecutive elements of a tensor, or of a part of it, that are read at once.

    Attributes:
        first: number of the first element.
        data: the elements, 1-D; valid until `read_chunks`'s callback returns.
    """

    tensor: StoredTensor
    first: int
    data: Tensor


def read_chunks(parts: Iterable[TensorPart], use: Callable[[Chunk], None], pinned: bool = False) -> Generator[int]:
    """Read parts of tensors in file order with several threads; yield the size in bytes of each chunk that is done.

    The thread that reads a chunk also calls `use`: writing to new memory takes longer than reading from the page
    cache, so several threads write, too. Closing the iterator ends the reading.

    Args:
        use: called with each chunk, from several threads at once.
        pinned: read into page-locked memory, which is copied faster to a GPU, if the host provides some.

    Raises:
        CheckpointError: a file cannot be read, or ends early.
    """
    ordered = sorted(parts, key=lambda part: (str(part.tensor.file), part.tensor.start))
    thread = threading.local()

    def read(byte_range: tuple[TensorPart, int, int]) -> int:
        part, first, count = byte_range
        tensor = part.tensor
        if not hasattr(thread, "buffer"):
            thread.buffer, _ = host_memory(CHUNK_BYTES, page_locked=pinned)
        data = thread.buffer[:count]
        _read_part(descriptors[tensor.file], part, first, data)
        use(Chunk(tensor, first // tensor.dtype.itemsize, data.view(tensor.dtype)))
        return count

    with ExitStack() as opened:
        files = {part.tensor.file: None for part in ordered}
        descriptors = {file: opened.enter_context(file.open("rb", buffering=0)).fileno() for file in files}
        pool = opened.enter_context(ThreadPoolExecutor(READERS, "read weights"))
        opened.callback(pool.shutdown, cancel_futures=True)  # also if `map` is interrupted while it submits
        yield from pool.map(read, _byte_ranges(ordered))


def _byte_ranges(parts: Iterable[TensorPart]) -> Iterator[tuple[TensorPart, int, int]]:
    """Yield each chunk's part, first byte within the part, and size in bytes."""
    for part in parts:
        for start in range(0, part.nbytes, CHUNK_BYTES):
            yield part, start, min(CHUNK_BYTES, part.nbytes - start)


def _read_part(descriptor: int, part: TensorPart, first: int, target: Tensor) -> None:
    """Fill `target` with a part's bytes from byte `first` on, run by run."""
    begin, length, distance = part.runs
    view = memoryview(target.numpy().data)
    done = 0
    # A part with thousands of short runs is read by one thread at a time: several would wait for the interpreter lock.
    with _SHORT_RUNS if length < part.nbytes else nullcontext():
        while done < len(view):
            run, skipped = divmod(first + done, length)
            count = min(length - skipped, len(view) - done)
            _read_at(descriptor, part.tensor, begin + run * distance + skipped, view[done : done + count])
            done += count


def chunk_ranges(tensors: Iterable[StoredTensor], chunk_bytes: int) -> Iterator[tuple[StoredTensor, int, int]]:
    """Yield each chunk's tensor, number of its first element, and size in bytes, which is at most `chunk_bytes`."""
    for tensor in tensors:
        size = tensor.stop - tensor.start
        for start in range(0, size, chunk_bytes):
            yield tensor, start // tensor.dtype.itemsize, min(chunk_bytes, size - start)


def read_exactly(descriptor: int, tensor: StoredTensor, first: int, target: Tensor) -> None:
    """Fill `target` (uint8, in host memory) with the bytes of a tensor from element `first` on.

    Raises:
        CheckpointError: the file cannot be read, or ends early.
    """
    _read_at(descriptor, tensor, tensor.start + first * tensor.dtype.itemsize, memoryview(target.numpy().data))


def _read_at(descriptor: int, tensor: StoredTensor, position: int, view: memoryview) -> None:
    while view:
        try:
            count = os.preadv(descriptor, [view], position)
        except OSError as error:
            raise CheckpointError(
                f"{tensor.file} cannot be read: {error.strerror}", "check the disk, or fetch the file again"
            ) from error
        if not count:
            raise CheckpointError(f"{tensor.file} ends in the middle of {tensor.name}", "fetch the file again")
        view, position = view[count:], position + count
