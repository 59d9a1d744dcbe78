"""The weight stream: reads weights from a checkpoint's files into a network while the device computes.

We cannot use the hooks of accelerate (`cpu_offload`, `disk_offload`). They load a module's weights when the module is
called and free them afterwards, so the device waits for every copy. The files' tensors also have other names and shapes
than our parameters. The host's page cache keeps the files in memory if there is room; the process itself holds only a
few buffers.
"""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from config.errors import SenseNovaError
from model.checkpoint.loader import ParameterWriter
from model.checkpoint.quantization import Staging
from model.checkpoint.stored_tensor import Chunk, Piece, StoredTensor, TensorPart
from model.checkpoint.tensor_files import pieces_of, read_piece
from model.device_kinds import DeviceKind
from model.devices import host_memory, new_stream

READ_BYTES = 32 * 2**20
"""Bytes per read (`python -m benchmarks.weight_link FOLDER` compares sizes and numbers of readers). Each read costs a
fixed time, because its thread waits several times for the interpreter lock. With 16 MiB a step takes a quarter
longer."""
READERS = min(12, os.cpu_count() or 1)
"""Threads. One thread copies less out of the page cache than the link to a GPU can carry."""
BUFFERS = 2
"""Buffers per thread: it reads into one while the device copies from the other."""


class Load:
    """The loading of some tensors."""

    def __init__(
        self, reads: int, writer: ParameterWriter, device: torch.device, before: torch.cuda.Event | None
    ) -> None:
        """
        Args:
            reads: number of reads that complete the load.
            before: nothing is written until the device has reached this event. None on a device without streams.
        """
        self._device = device
        self._writer = writer
        self._staging: Staging = writer.staging()
        self._before = before
        self._missing = reads
        self._arrived = torch.cuda.Event() if before is not None else None
        self._lock = threading.Lock()
        self._queued = threading.Event()
        self._cancelled = False
        self._error: BaseException | None = None

    def wait(self) -> None:
        """Make the current stream wait for the tensors before it runs any later work.

        Raises:
            CheckpointError: the tensors cannot be read.
            RuntimeError: copying them failed, for example because memory ran out.
        """
        self._queued.wait()
        if self._error is not None:
            if isinstance(self._error, SenseNovaError):
                raise self._error.fresh_copy()
            if isinstance(self._error, torch.OutOfMemoryError | MemoryError):
                raise torch.OutOfMemoryError(str(self._error))
            raise RuntimeError(f"weights could not be loaded to {self._device}: {self._error}")
        if self._arrived is not None:
            torch.cuda.current_stream(self._device).wait_event(self._arrived)

    def finish(self) -> None:
        """Wait until the tensors are on the device; errors are those of `wait`."""
        self.wait()
        if self._arrived is not None:
            self._arrived.synchronize()

    @property
    def is_complete(self) -> bool:
        """Whether the device has the tensors already."""
        done = self._queued.is_set() and self._error is None
        return done and (self._arrived is None or self._arrived.query())

    @property
    def has_failed(self) -> bool:
        """Whether a read or a copy has failed."""
        return self._error is not None

    @property
    def is_wanted(self) -> bool:
        """False once the load is cancelled, has failed, or the interpreter is shutting down, which waits for these
        threads."""
        return not self._cancelled and self._error is None and threading.main_thread().is_alive()

    def cancel(self) -> None:
        """Stop the load. Nothing is written after this returns."""
        with self._lock:
            self._cancelled = True

    def take(self, chunk: Chunk | None, error: BaseException | None) -> None:
        """Queue the copy of a chunk that has been read, or record why it could not be read."""
        with self._lock:
            if chunk is not None and self.is_wanted:
                if self._before is not None:
                    # All copies are on one stream, so the first copy's wait holds for all.
                    self._before.wait()
                    self._before = None
                self._writer.write(chunk, self._staging, non_blocking=True)
            self._error = self._error or error
            self._missing -= 1
            if self._missing == 0:
                if self._arrived is not None:
                    self._arrived.record()
                self._queued.set()


class WeightStream:
    """Reads tensors of one checkpoint into one network, in threads.

    Attributes:
        writer: stores the numbers of loads that start from now on. The owner sets it before the first load.
        note: a notice to the user about its speed, or None.
    """

    writer: ParameterWriter

    def __init__(
        self,
        tensors: Mapping[str, StoredTensor],
        device: torch.device,
        read_bytes: int = READ_BYTES,
        readers: int = READERS,
        page_locked: bool = True,
    ) -> None:
        """Open the files; read nothing yet.

        Args:
            tensors: by their official names.
            read_bytes: bytes per read, a multiple of every number's size. The host holds `BUFFERS` buffers of this size
                per reader.
            readers: threads.
            page_locked: whether buffers for a GPU are page-locked, if the host allows it.
        """
        self.note: str | None = None
        self._read_bytes, self._readers = read_bytes, readers
        self._page_locked = page_locked and DeviceKind.of(device).has_streams
        self._tensors = tensors
        self._device = device
        self._copies = new_stream(device)
        # The files stay open: if one is replaced meanwhile, reading continues from the old one.
        self._files = {file: file.open("rb", buffering=0) for file in {tensor.file for tensor in tensors.values()}}
        # The threads copy on that stream. They hold no reference to this object, which could otherwise not be freed.
        begin = partial(torch.cuda.set_stream, self._copies) if self._copies is not None else None
        self._pool = ThreadPoolExecutor(readers, "stream weights", initializer=begin)
        self._own = threading.local()

    @property
    def parts(self) -> dict[str, TensorPart]:
        """Whole tensors, by their official names."""
        return {name: TensorPart.whole(tensor) for name, tensor in self._tensors.items()}

    def load(self, names: Sequence[str]) -> Load:
        """Start to load tensors, by their official names. They overwrite nothing before the device has finished the
        work that is now queued on the current stream."""
        ordered = sorted((self._tensors[name] for name in names), key=lambda tensor: (str(tensor.file), tensor.start))
        reads = list(pieces_of(map(TensorPart.whole, ordered), self._read_bytes))
        before = torch.cuda.current_stream(self._device).record_event() if self._copies is not None else None
        load = Load(len(reads), self.writer, self._device, before)
        for each in reads:
            self._pool.submit(self._read, load, each)
        return load

    def measure(self) -> float:
        """Read all tensors into the host's buffers only; return bytes per second."""
        begun = threading.Barrier(self._readers)

        def begin(_: int) -> None:
            self._buffer()  # allocating it takes longest
            begun.wait()  # so that every thread has its own buffers

        list(self._pool.map(begin, range(self._readers)))
        clock = time.perf_counter()
        reads = pieces_of(map(TensorPart.whole, self._tensors.values()), self._read_bytes)
        count = sum(self._pool.map(lambda each: len(self._fetched(each)[0]), reads))
        return count / (time.perf_counter() - clock)

    def close(self) -> None:
        """Stop all loads, and return when nothing more is written. The layer buffers may be freed then."""
        self._pool.shutdown(cancel_futures=True)
        if self._copies is not None:
            self._copies.synchronize()
        for file in self._files.values():
            file.close()

    def _read(self, load: Load, piece: Piece) -> None:
        chunk, error = None, None
        try:
            if load.is_wanted:
                data, copied = self._fetched(piece)
                chunk = piece.chunk(data)
            load.take(chunk, None)
            if chunk is not None and copied is not None:
                copied.record()
        except BaseException as caught:  # `Load.wait` raises it again
            error = caught.with_traceback(None)
        if error is not None:
            load.take(None, error)

    def _fetched(self, piece: Piece) -> tuple[Tensor, torch.cuda.Event | None]:
        """Read a piece into the thread's next buffer. Return its bytes and the event that frees the buffer."""
        buffer, copied = self._buffer()
        return read_piece(self._files[piece.part.tensor.file].fileno(), piece, buffer), copied

    def _buffer(self) -> tuple[Tensor, torch.cuda.Event | None]:
        """Return the calling thread's next buffer, when it is free, and the event to record after its next copy."""
        own = self._own
        if not hasattr(own, "buffers"):
            own.buffers = [(self._new_buffer(), self._new_event()) for _ in range(BUFFERS)]
        own.buffers.append(own.buffers.pop(0))
        buffer, copied = own.buffers[-1]
        if copied is not None and not copied.query():  # `query` keeps the interpreter lock, waiting releases it
            copied.synchronize()
        return buffer, copied

    def _new_buffer(self) -> Tensor:
        buffer, note = host_memory(self._read_bytes, page_locked=self._page_locked)
        if note is not None:
            self.note, self._page_locked = note, False
        return buffer

    def _new_event(self) -> torch.cuda.Event | None:
        return torch.cuda.Event() if self._copies is not None else None
