"""A layer between the program and the file system: one chosen call fails, or a signal arrives there.

Only calls on files below one folder count, so imports and the interpreter's own files are left alone. Writes count one
by one, because opened files are replaced by files whose lowest layer is written in Python.
"""

import builtins
import errno
import fcntl
import io
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
ERRORS: dict[str, tuple[int, ...]] = {
    "open to read": (errno.EACCES, errno.EIO, errno.EMFILE),
    "open to write": (errno.EACCES, errno.EIO, errno.EMFILE, errno.EROFS, *NO_ROOM),
    "read": (errno.EIO, errno.ESTALE),
    "write": (errno.EIO, *NO_ROOM),
    "fsync": (errno.EIO, *NO_ROOM),
    "stat": (errno.EACCES, errno.EIO),
    "lstat": (errno.EACCES, errno.EIO),
    "fstat": (errno.EIO,),
    "mkdir": (errno.EACCES, errno.EIO, errno.EROFS, *NO_ROOM),
    "scandir": (errno.EACCES, errno.EIO, errno.EMFILE),
    "listdir": (errno.EACCES, errno.EIO, errno.EMFILE),
    "unlink": (errno.EACCES, errno.EIO, errno.EROFS),
    "rmdir": (errno.EACCES, errno.EIO),
    "rename": (errno.EACCES, errno.EIO, *NO_ROOM),
    "replace": (errno.EACCES, errno.EIO, *NO_ROOM),
    "link": (errno.EPERM, errno.EIO, *NO_ROOM),
    "symlink": (errno.EPERM, errno.EIO),
    "chmod": (errno.EPERM, errno.EIO),
    "fchmod": (errno.EPERM, errno.EIO),
    "utime": (errno.EPERM,),
    "ftruncate": (errno.EIO,),
    "flock": (errno.ENOLCK, errno.EIO),
}
"""Call → the errors that it can have on real file systems."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REMOVALS = ("unlink", "rmdir")
"""Calls after whose failure a temporary file may stay."""


@dataclass(frozen=True)
class Fault:
    """What happens at one call.

    Attributes:
        at: the number of the call, from 1.
        error: the error number; 0 for a signal.
        signal: the signal; 0 for an error.
        after: whether the signal arrives after the call, and not before it.
        second: the second signal arrives this many calls later; 0 for one signal alone.
        lasting: whether all later calls of the same kind fail too, as on a full disk. Calls in the temporary folder
            then succeed.
    """

    at: int
    error: int = 0
    signal: int = 0
    after: bool = False
    second: int = 0
    lasting: bool = False

    def __str__(self) -> str:
        if self.signal:
            name = signal.Signals(self.signal).name
            again = f", again {self.second} calls later" if self.second else ""
            return f"{name} {'after' if self.after else 'before'} call {self.at}{again}"
        return f"{errno.errorcode[self.error]} at call {self.at}{' and later' if self.lasting else ''}"

    def shrunk(self, calls: int) -> "Fault":
        """Return the same fault within a run of this many calls."""
        return replace(self, at=min(self.at, calls))


class Shim:
    """Counts the calls of this process and raises the fault.

    Args:
        root: the folder whose files count.
        spared: a folder in which lasting faults do not happen.
        fault: the fault; None only counts.
        record: called with the kind and the path of each call.
    """

    def __init__(self, root: Path, spared: Path, fault: Fault | None, record: Callable[[str], None]) -> None:
        self._root, self._spared = str(root), str(spared)
        self._fault = fault
        self._record = record
        self._descriptors: dict[int, str] = {}
        self._calls = 0
        self._kind = ""

    def call(self, kind: str, path: str, run: Callable[[], Any] = lambda: None) -> Any:
        """Run one call, unless the fault is an error and happens here."""
        self._calls += 1
        number, fault = self._calls, self._fault
        self._record(f"{kind} {path}")
        if fault is None:
            return run()
        is_here = number in (fault.at, fault.at + fault.second)
        if fault.signal:
            if is_here and not fault.after:
                os.kill(os.getpid(), fault.signal)
            result = run()
            if is_here and fault.after:
                os.kill(os.getpid(), fault.signal)
            return result
        if number == fault.at:
            self._kind = kind
        lasts = fault.lasting and number > fault.at and self._is_like(kind) and not path.startswith(self._spared)
        if (number == fault.at and fault.error in ERRORS.get(kind, ())) or lasts:
            raise OSError(fault.error, os.strerror(fault.error), path)
        return run()

    def _is_like(self, kind: str) -> bool:
        assert self._fault is not None
        return self._fault.error in ERRORS.get(kind, ()) and (self._fault.error in NO_ROOM or kind == self._kind)

    def install(self) -> None:
        """Replace the functions of `os`, `io` and `fcntl` in this process."""
        for name in ("stat", "lstat", "mkdir", "scandir", "listdir", "unlink", "rmdir", "chmod", "utime", "symlink"):
            self._wrap(os, name)
        self._wrap(os, "remove", "unlink")
        for name in ("rename", "replace", "link"):
            self._wrap(os, name, which=1)
        for name in ("fsync", "fstat", "ftruncate", "write", "read", "fchmod"):
            self._wrap_descriptor(os, name)
        self._wrap_descriptor(fcntl, "flock")
        self._wrap_os_open()
        self._wrap_open()

    def _watched(self, path: Any, dir_fd: Any = None) -> str | None:
        """Return the absolute path if it is below the folder."""
        if isinstance(path, int):
            return self._descriptors.get(path)
        try:
            name = os.fsdecode(path)
        except TypeError:
            return None
        if dir_fd is not None:
            folder = self._descriptors.get(dir_fd)
            return f"{folder}/{name}" if folder else None
        try:
            full = os.path.abspath(name)  # noqa: PTH100  # `resolve` would make calls of its own
        except OSError:
            return None
        return full if full == self._root or full.startswith(self._root + "/") else None

    def _wrap(self, module: Any, name: str, kind: str = "", which: int = 0) -> None:
        original = getattr(module, name)
        kind = kind or name

        def wrapped(*values: Any, **options: Any) -> Any:
            folder = options.get("dir_fd", options.get("dst_dir_fd" if which else "src_dir_fd"))
            path = self._watched(values[which] if len(values) > which else ".", folder)
            if path is None:
                return original(*values, **options)
            return self.call(kind, path, lambda: original(*values, **options))

        for support in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
            if original in support:
                support.add(wrapped)
        setattr(module, name, wrapped)

    def _wrap_descriptor(self, module: Any, name: str) -> None:
        original = getattr(module, name)

        def wrapped(descriptor: Any, *values: Any) -> Any:
            number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            path = self._descriptors.get(number)
            if path is None:
                return original(descriptor, *values)
            return self.call(name, path, lambda: original(descriptor, *values))

        setattr(module, name, wrapped)

    def _wrap_os_open(self) -> None:
        original, original_close = os.open, os.close

        def wrapped(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            full = self._watched(path, dir_fd)
            if full is None:
                return original(path, flags, mode, dir_fd=dir_fd)
            kind = "open to write" if flags & (os.O_WRONLY | os.O_RDWR) else "open to read"
            descriptor: int = self.call(kind, full, lambda: original(path, flags, mode, dir_fd=dir_fd))
            self._descriptors[descriptor] = full
            return descriptor

        def close(descriptor: int) -> None:
            self._descriptors.pop(descriptor, None)
            original_close(descriptor)

        os.supports_dir_fd.add(wrapped)
        os.open, os.close = wrapped, close

    def _wrap_open(self) -> None:
        original = io.open
        shim = self

        class File(io.FileIO):
            """The lowest layer of an opened file."""

            def __init__(self, path: str, *values: Any, **options: Any) -> None:
                self._path = path
                super().__init__(*values, **options)
                shim._descriptors[self.fileno()] = path

            def write(self, data: Any) -> int:
                return shim.call("write", self._path, lambda: io.FileIO.write(self, data))  # type: ignore[no-any-return]

            def read(self, size: int | None = -1) -> bytes:
                return shim.call("read", self._path, lambda: io.FileIO.read(self, -1 if size is None else size))  # type: ignore[no-any-return]

            def readall(self) -> bytes:
                return shim.call("read", self._path, lambda: io.FileIO.readall(self))  # type: ignore[no-any-return]

            def readinto(self, buffer: Any) -> int:
                return shim.call("read", self._path, lambda: io.FileIO.readinto(self, buffer))  # type: ignore[no-any-return]

            def close(self) -> None:
                if not self.closed:
                    shim._descriptors.pop(self.fileno(), None)
                super().close()

        def opened(
            file: Any,
            mode: str = "r",
            buffering: int = -1,
            encoding: str | None = None,
            errors: str | None = None,
            newline: str | None = None,
            closefd: bool = True,
            opener: Any = None,
        ) -> Any:
            path = shim._watched(file)
            if path is None:
                return original(file, mode, buffering, encoding, errors, newline, closefd, opener)
            writes = not {"w", "a", "x", "+"}.isdisjoint(mode)
            if not isinstance(file, int):
                shim.call("open to write" if writes else "open to read", path)
            raw_mode = mode.replace("b", "").replace("t", "")
            raw = File(path, file, raw_mode, closefd=closefd, opener=opener)
            if buffering == 0:
                return raw
            kind: Any = io.BufferedRandom if "+" in mode else io.BufferedWriter if writes else io.BufferedReader
            buffered = kind(raw)
            if "b" in mode:
                return buffered
            text = io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline, line_buffering=buffering == 1)
            text.mode = mode
            return text

        io.open = opened
        builtins.open = opened  # type: ignore[assignment]
