"""Reading of files whose names come from a stranger: a link is not followed, and a pipe or device is not waited for."""

import os
import stat
from pathlib import Path

from config.operating_system import BINARY, NO_LINKS, NO_WAITING


def read_plain_file(path: Path, limit: int) -> bytes | None:
    """Return the content of a regular file, at most `limit` bytes of it; None if there is no readable regular file."""
    flags = os.O_RDONLY | NO_LINKS | NO_WAITING | BINARY
    try:
        handle = os.open(path, flags)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None  # Python's `open` raises an error for a folder
        with open(handle, "rb", closefd=False) as file:  # a handle, not a path
            return file.read(limit)
    except OSError:
        return None
    finally:
        os.close(handle)
