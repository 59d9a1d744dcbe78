"""The lock of a session: one process at a time writes a session. Reading needs no lock.

The operating system holds the lock, so a killed process leaves none behind. The lock file stays in the session's folder
and names the process that locked it last.
"""

import errno
import os
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from config.operating_system import NO_LINKS, NO_WAITING, host_name, is_locked_by_another
from sensenova_cli.errors import SessionError
from sensenova_cli.sessions.plain_files import require_plain_files
from sensenova_cli.system.private_files import FILE_MODE

LOCK_FILE = "session.lock"
PATIENCE = 0.5
"""Seconds to wait for the lock: `is_locked` in another process holds it for an instant."""


def lock_session(folder: Path) -> BaseFileLock:
    """Lock a session's folder until `release` is called on the result.

    Raises:
        SessionError: another process holds the lock, the lock file cannot be written, or the folder contains links.
    """
    require_plain_files(folder)
    path = folder / LOCK_FILE

    def note_holder(descriptor: int) -> None:
        # Between opening and locking the file, another process may have renamed the folder and made a new one.
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise OSError(errno.ESTALE, "its folder was replaced at this moment")
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()} on {host_name()}\n".encode())

    # A fallback to a lock file without an OS lock would outlive a killed process.
    lock = FileLock(
        path,
        timeout=PATIENCE,
        mode=FILE_MODE,
        thread_local=False,
        fallback_to_soft=False,
        on_acquired=note_holder,
    )
    try:
        lock.acquire()
    except Timeout:
        raise SessionError(
            f"the session {folder.name} is in use by {_holder(path)}", "close it there first, or use another session"
        ) from None
    except OSError as error:
        raise SessionError(
            f"the session {folder.name} cannot be opened for writing: {error.strerror or error}",
            f"make {folder} writable, or set SENSENOVA_DATA_DIR to another folder",
        ) from error
    return lock


def is_locked(folder: Path) -> bool:
    """Return whether a process has this session open for writing."""
    # filelock is not used here: it would create the file in folders that are only read, and because its lock is
    # exclusive, two readers would take each other for writers.
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | NO_LINKS | NO_WAITING)
    except OSError:  # no process has opened the session yet, or the file is not readable
        return False
    try:
        return is_locked_by_another(descriptor)
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)


def _holder(path: Path) -> str:
    try:
        number, _, machine = path.read_text(encoding="utf-8").strip().partition(" on ")
    except (OSError, ValueError):
        number, machine = "", ""
    if not number.isdecimal():
        return "another process"
    return f"process {number}" + (f" on {machine}" if machine != host_name() else "")
