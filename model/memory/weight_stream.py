"""Weights that are read while the device is at work: from a checkpoint's files through a few buffers into a network.

accelerate's hooks (`cpu_offload`, `disk_offload`) bring a module's weights when it is called and let them go behind it:
the device waits for every copy, and the files' tensors have other names and parts than ours. So this is our own. The
host's page cache keeps the files in memory where there is room; the process itself holds only the buffers.
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
from model.checkpoint.loader import Filling
from model.checkpoint.quantization import Staging
from model.checkpoint.safetensors_files import Chunk, StoredTensor, parts_of, read_exactly
from model.devices import host_memory

READ_BYTES = 32 * 2**20
"""Read at once (`python -m benchmarks.weight_link FOLDER` compares other sizes, and numbers of readers). What a piece
costs beside its bytes is the interpreter, which its thread has to get hold of several times, while others and the
program itself want it, too: with 16 MiB a step takes a quarter longer."""
READERS = min(12, os.cpu_count() or 1)
"""Threads: one alone copies less out of the page cache than the link to a GPU takes."""
BUFFERS = 2
"""For each thread: it reads into one while the device copies from the other."""


class Load:
    """Tensors that are being read."""

    def __init__(self, pieces: int, filling: Filling, device: torch.device, before: torch.cuda.Event | None) -> None:
        """before: nothing is written until the device has come to it; None on a device without a timeline."""
        self._device = device
        self._filling = filling
        self._staging: Staging = filling.staging()
        self._before = before
        self._missing = pieces
        self._arrived = torch.cuda.Event() if before is not None else None
        self._lock = threading.Lock()
        self._asked_for = threading.Event()
        self._cancelled = False
        self._error: BaseException | None = None

    def wait(self) -> None:
        """Have what the device is asked for from now on, on the current stream, come after the tensors are there.

        Raises:
            CheckpointError: they cannot be read.
            RuntimeError: what their copying ended with, such as memory that ran out.
        """
        self._asked_for.wait()
        if self._error is not None:
            if isinstance(self._error, SenseNovaError):
                raise self._error.again()
            if isinstance(self._error, torch.OutOfMemoryError | MemoryError):
                raise torch.OutOfMemoryError(str(self._error))
            raise RuntimeError(f"weights could not be brought to {self._device}: {self._error}")
        if self._arrived is not None:
            torch.cuda.current_stream(self._device).wait_event(self._arrived)

    def finish(self) -> None:
        """Return when the tensors are there; errors as for `wait`."""
        self.wait()
        if self._arrived is not None:
            self._arrived.synchronize()

    @property
    def is_there(self) -> bool:
        """Whether the device has the tensors already."""
        done = self._asked_for.is_set() and self._error is None
        return done and (self._arrived is None or self._arrived.query())

    @property
    def has_failed(self) -> bool:
        return self._error is not None

    @property
    def is_wanted(self) -> bool:
        """Whether reading on makes sense: nobody cancelled it, nothing failed, and the program is not at its end, which
        waits for these threads."""
        return not self._cancelled and self._error is None and threading.main_thread().is_alive()

    def cancel(self) -> None:
        """When this returns nothing more will be written."""
        with self._lock:
            self._cancelled = True

    def take(self, chunk: Chunk | None, error: BaseException | None) -> None:
        """A piece has been read, or not: ask the current stream to copy it."""
        with self._lock:
            if chunk is not None and self.is_wanted:
                if self._before is not None:
                    # All copies are on one stream, so that the first one's wait is everyone's.
                    self._before.wait()
                    self._before = None
                self._filling.place(chunk, self._staging, non_blocking=True)
            self._error = self._error or error
            self._missing -= 1
            if self._missing == 0:
                if self._arrived is not None:
                    self._arrived.record()
                self._asked_for.set()


class WeightStream:
    """Reads tensors of one checkpoint into one network.

    Attributes:
        filling: where numbers go, of loads that begin from now on; it is for the owner to say before the first one.
        note: what a user should know about its speed, or None.
    """

    filling: Filling

    def __init__(
        self,
        tensors: Mapping[str, StoredTensor],
        device: torch.device,
        piece_bytes: int = READ_BYTES,
        readers: int = READERS,
        page_locked: bool = True,
    ) -> None:
        """Nothing is read yet.

        Args:
            tensors: by their official names.
            piece_bytes: read at once, a multiple of every number's size; the host holds `BUFFERS` of them for each
                reader.
            readers: threads.
            page_locked: whether buffers for a GPU are, if the host allows it.
        """
        self.note: str | None = None
        self._piece_bytes, self._readers = piece_bytes, readers
        self._page_locked = page_locked and device.type == "cuda"
        self._tensors = tensors
        self._device = device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        # Opened once: a file that is replaced meanwhile goes on as it was.
        self._files = {file: file.open("rb", buffering=0) for file in {tensor.file for tensor in tensors.values()}}
        # The threads copy on that stream, and hold nothing of this object, which would keep it from being let go of.
        begin = partial(torch.cuda.set_stream, self._copies) if self._copies is not None else None
        self._pool = ThreadPoolExecutor(readers, "stream weights", initializer=begin)
        self._own = threading.local()

    def load(self, names: Sequence[str]) -> Load:
        """Begin to read tensors, by their official names. Nothing is overwritten before the device has done what the
        current stream has been asked for up to now."""
        ordered = sorted((self._tensors[name] for name in names), key=lambda tensor: (str(tensor.file), tensor.start))
        pieces = list(parts_of(ordered, self._piece_bytes))
        before = torch.cuda.current_stream(self._device).record_event() if self._copies is not None else None
        load = Load(len(pieces), self.filling, self._device, before)
        for piece in pieces:
            self._pool.submit(self._read, load, *piece)
        return load

    def measure(self) -> float:
        """Read all tensors into the buffers alone; returns the bytes a second."""
        begun = threading.Barrier(self._readers)

        def begin(_: int) -> None:
            self._buffer()  # the first one takes longest
            begun.wait()  # so that each thread has its own

        list(self._pool.map(begin, range(self._readers)))
        clock = time.perf_counter()
        pieces = parts_of(self._tensors.values(), self._piece_bytes)
        count = sum(self._pool.map(lambda piece: len(self._fetched(*piece)[0]), pieces))
        return count / (time.perf_counter() - clock)

    def close(self) -> None:
        """End all reading, and return when nothing more is written; what was read into may be given back then."""
        self._pool.shutdown(cancel_futures=True)
        if self._copies is not None:
            self._copies.synchronize()
        for file in self._files.values():
            file.close()

    def _read(self, load: Load, tensor: StoredTensor, first: int, count: int) -> None:
        chunk, error = None, None
        try:
            if load.is_wanted:
                data, copied = self._fetched(tensor, first, count)
                chunk = Chunk(tensor, first, data.view(tensor.dtype))
            load.take(chunk, None)
            if chunk is not None and copied is not None:
                copied.record()
        except BaseException as caught:  # raised again where the load is waited for
            error = caught.with_traceback(None)
        if error is not None:
            load.take(None, error)

    def _fetched(self, tensor: StoredTensor, first: int, count: int) -> tuple[Tensor, torch.cuda.Event | None]:
        """So many bytes of a tensor in the calling thread's next buffer, and the event after which that is free."""
        buffer, copied = self._buffer()
        read_exactly(self._files[tensor.file].fileno(), tensor, first, buffer[:count])
        return buffer[:count], copied

    def _buffer(self) -> tuple[Tensor, torch.cuda.Event | None]:
        """The calling thread's next buffer, free to be written to, and the event after which it is again."""
        own = self._own
        if not hasattr(own, "buffers"):
            own.buffers = [(self._new_buffer(), self._new_event()) for _ in range(BUFFERS)]
        own.buffers.append(own.buffers.pop(0))
        buffer, copied = own.buffers[-1]
        if copied is not None and not copied.query():  # asking does not give up the interpreter, waiting does
            copied.synchronize()
        return buffer, copied

    def _new_buffer(self) -> Tensor:
        buffer, note = host_memory(self._piece_bytes, page_locked=self._page_locked)
        if note is not None:
            self.note, self._page_locked = note, False
        return buffer

    def _new_event(self) -> torch.cuda.Event | None:
        return torch.cuda.Event() if self._copies is not None else None
