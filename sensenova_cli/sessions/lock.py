"""One process writes a session at a time; reading needs no lock.

The lock is the operating system's, so a process that is killed leaves none behind. The file it is held on stays:
removing it would let two processes hold locks on two files of the same name.
"""

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from sensenova_cli.errors import SessionError

LOCK_FILE = "session.lock"
PATIENCE = 0.5
"""Seconds that taking the lock waits: `is_locked`, in another process, holds it for an instant."""


class SessionLock:
    """Holds the lock of a session's folder from the beginning until `release`.

    Raises:
        SessionError: another process holds it, or the folder has no place for it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        deadline = time.monotonic() + PATIENCE
        while (descriptor := self._try()) is None:
            if time.monotonic() > deadline:
                raise SessionError(
                    f"the session {folder.name} is in use by {self._holder()}",
                    "leave it there first, or take another session",
                )
            time.sleep(PATIENCE / 10)
        self._descriptor = descriptor

    def _try(self) -> int | None:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise _unwritable(self._path.parent, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), self._path.stat()):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()} on {os.uname().nodename}\n".encode())
                return descriptor
            # The folder was removed between the two calls, and another one has its name.
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError as error:
            os.close(descriptor)
            raise _unwritable(self._path.parent, error) from error
        os.close(descriptor)
        return None

    def _holder(self) -> str:
        try:
            number, _, machine = self._path.read_text(encoding="utf-8").strip().partition(" on ")
        except (OSError, ValueError):
            number, machine = "", ""
        if not number.isdecimal():
            return "another process"
        return f"process {number}" + (f" on {machine}" if machine != os.uname().nodename else "")

    def release(self) -> None:
        """Let others in; releasing it again does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> "SessionLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_locked(folder: Path) -> bool:
    """Whether a process has this session open for writing."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY)
    except OSError:  # nobody has ever opened it, or it is not ours to look into
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


def _unwritable(folder: Path, error: OSError) -> SessionError:
    return SessionError(
        f"the session {folder.name} cannot be opened for writing: {error.strerror or error}",
        f"make {folder} writable, or set SENSENOVA_DATA_DIR to another folder",
    )
