"""Tensors of a checkpoint: find them in its files, and read them in chunks.

Tensors are read with plain file I/O into a few reused buffers, not through a memory map: mapped pages count towards
the process's resident memory until the map is closed, and a checkpoint is larger than the memory of most hosts.
"""

import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from config.operating_system import read_at
from model.checkpoint.gguf_files import gguf_tensors
from model.checkpoint.gguf_header import is_gguf
from model.checkpoint.safetensors_files import safetensors_tensors
from model.checkpoint.safetensors_header import find_files
from model.checkpoint.scaled_tensors import combine_scales
from model.checkpoint.stored_tensor import Chunk, Piece, StoredTensor, TensorPart
from model.devices import host_memory
from model.errors import CheckpointError

CHUNK_BYTES = 4 * 2**20
"""Size of the chunks in which tensors are read."""
READERS = min(4, os.cpu_count() or 1)
"""Number of threads that read."""
_SHORT_RUNS = threading.Lock()
"""Held while a part with short runs is read."""


def stored_tensors(folder: Path, weights: Path | None = None) -> dict[str, StoredTensor]:
    """Return all tensors of a checkpoint by their official names. Only headers and scales are read.

    Args:
        folder: holds `config.json` and, without `weights`, the weights.
        weights: a file with all weights, in the format GGUF or safetensors.

    Raises:
        CheckpointError: there are no weights, the index is damaged or names a missing file, a file is truncated,
            damaged or of another model, or a tensor has an unsupported format or is stored twice.
    """
    if weights is not None and is_gguf(weights):
        return gguf_tensors(weights)
    files = [weights] if weights is not None else find_files(folder)
    return combine_scales(tensor for file in files for tensor in safetensors_tensors(file))


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

    def read(piece: Piece) -> int:
        if not hasattr(thread, "buffer"):
            thread.buffer, _ = host_memory(CHUNK_BYTES, page_locked=pinned)
        file = descriptors[piece.part.tensor.file]
        use(piece.chunk(read_piece(file, piece, thread.buffer)))
        return piece.nbytes

    with ExitStack() as opened:
        files = {part.tensor.file: None for part in ordered}
        descriptors = {file: opened.enter_context(file.open("rb", buffering=0)).fileno() for file in files}
        pool = opened.enter_context(ThreadPoolExecutor(READERS, "read weights"))
        opened.callback(pool.shutdown, cancel_futures=True)  # also if `map` is interrupted while it submits
        yield from pool.map(read, pieces_of(ordered, CHUNK_BYTES))


def pieces_of(parts: Iterable[TensorPart], most_bytes: int) -> Iterator[Piece]:
    """Yield the pieces of several parts."""
    return (piece for part in parts for piece in part.pieces(most_bytes))


def total_bytes(parts: Iterable[TensorPart]) -> int:
    """Return the bytes that `read_chunks` reads."""
    return sum(piece.nbytes for piece in pieces_of(parts, CHUNK_BYTES))


def read_piece(descriptor: int, piece: Piece, buffer: Tensor) -> Tensor:
    """Read a piece's bytes into the beginning of a buffer (uint8, in host memory), and return that.

    A row that is longer than the buffer gets memory of its own.

    Raises:
        CheckpointError: the file cannot be read, or ends early.
    """
    tensor = piece.part.tensor
    data = buffer[: piece.nbytes] if piece.nbytes <= len(buffer) else torch.empty(piece.nbytes, dtype=torch.uint8)
    if piece.window is None or tensor.encoding is None:
        _read_runs(descriptor, piece, data)
    else:
        blocks = piece.window.origin // tensor.encoding.block_numbers
        position = tensor.start + blocks * tensor.encoding.block_bytes
        _read_at(descriptor, tensor, position, memoryview(data.numpy().data))
    return data


def _read_runs(descriptor: int, piece: Piece, target: Tensor) -> None:
    """Fill `target` with a piece's bytes, run by run."""
    part = piece.part
    begin, length, distance = part.runs
    first = piece.first * part.tensor.dtype.itemsize
    view = memoryview(target.numpy().data)
    done = 0
    # A part with thousands of short runs is read by one thread at a time: several would wait for the interpreter lock.
    with _SHORT_RUNS if part.axis > 0 else nullcontext():
        while done < len(view):
            run, skipped = divmod(first + done, length)
            count = min(length - skipped, len(view) - done)
            _read_at(descriptor, part.tensor, begin + run * distance + skipped, view[done : done + count])
            done += count


def read_row(descriptor: int, tensor: StoredTensor, number: int) -> Tensor:
    """Read one row of a matrix from its file, and return its numbers in host memory; errors as for `read_piece`."""
    (piece,) = TensorPart(tensor, 0, number, 1).pieces(CHUNK_BYTES)
    return piece.chunk(read_piece(descriptor, piece, torch.empty(piece.nbytes, dtype=torch.uint8))).numbers()


def _read_at(descriptor: int, tensor: StoredTensor, position: int, view: memoryview) -> None:
    while view:
        try:
            count = read_at(descriptor, view, position)
        except OSError as error:
            raise CheckpointError(
                f"{tensor.file} cannot be read: {error.strerror}", "check the disk, or fetch the file again"
            ) from error
        if not count:
            raise CheckpointError(f"{tensor.file} ends in the middle of {tensor.name}", "fetch the file again")
        view, position = view[count:], position + count
