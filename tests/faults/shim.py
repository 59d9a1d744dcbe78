"""A shim that counts the file-system calls of a process, and fails or signals at one of them.

It uses the interpreter's audit hook, which sees every `open`, `mkdir`, `rename`, `link` and so on, also in the standard
library. An exception in the hook takes the place of the call. Writes to an open file have no audit event;
`os.fsync`, which ends each of our writes, is replaced instead.
"""

import errno
import os
import signal
import sys
from dataclasses import dataclass
from typing import Any

CALLS = frozenset(
    (
        "open",
        "os.chmod",
        "os.link",
        "os.listdir",
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.scandir",
        "os.truncate",
        "tempfile.mkstemp",
    )
)
"""Audit events of calls that can fail."""

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EMFILE)


@dataclass(frozen=True)
class Fault:
    """What happens at a call.

    Attributes:
        call: the number of the call, from 1.
        error: the error number of the call; 0 if a signal arrives before it.
        signal: the signal that arrives; 0 for an error.
        lasting: whether all later calls that write fail, too, as on a full disk.
    """

    call: int
    error: int = 0
    signal: int = 0
    lasting: bool = False

    def __str__(self) -> str:
        what = errno.errorcode[self.error] if self.error else signal.Signals(self.signal).name
        return f"{what} at call {self.call}" + (" and later ones" if self.lasting else "")


class Shim:
    """Counts calls below a folder, and lets one fail.

    Attributes:
        calls: the number of calls so far.
    """

    def __init__(self, folder: str, fault: Fault | None) -> None:
        self.calls = 0
        self._folder = folder
        self._fault = fault
        self._is_busy = False

    def install(self) -> None:
        """Install the shim in this process, for its whole life."""
        real = os.fsync

        def fsync(handle: Any) -> None:
            self._count("os.fsync", True)
            real(handle)

        os.fsync = fsync
        sys.addaudithook(self._hook)

    def stop(self) -> int:
        """Let all later calls through; return the number of calls."""
        self._fault = None
        return self.calls

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CALLS or self._is_busy:
            return
        self._is_busy = True
        try:
            place = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else ""
        except (TypeError, ValueError):
            place = ""
        finally:
            self._is_busy = False
        if place.startswith("/") and not place.startswith(self._folder):
            return
        reads = event in ("os.listdir", "os.scandir") or (event == "open" and not _writes(arguments))
        self._count(event, not reads)

    def _count(self, event: str, writes: bool) -> None:
        self.calls += 1
        fault = self._fault
        if fault is None or self.calls < fault.call:
            return
        if self.calls == fault.call and fault.signal:
            os.kill(os.getpid(), fault.signal)
        elif fault.error and (self.calls == fault.call or (fault.lasting and writes and event != "os.remove")):
            raise OSError(fault.error, os.strerror(fault.error))


def _writes(arguments: tuple[Any, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
