"""Files and folders that only their user may read: 0600 and 0700, whatever the umask allows."""

import contextlib
import os
from pathlib import Path

from config.operating_system import NO_LINKS

FOLDER_MODE = 0o700
FILE_MODE = 0o600


def make_private_folder(folder: Path) -> None:
    """Create a folder for this user alone, with its parents; an existing folder keeps its permissions.

    Raises:
        OSError: the folder cannot be created.
    """
    for parent in [folder, *folder.parents][::-1]:
        # `parents=True` would give the missing parents the permissions of the umask.
        if not parent.exists():
            parent.mkdir(mode=FOLDER_MODE, exist_ok=True)
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)


def make_private(path: Path) -> None:
    """Take a file's permissions from other users; some file systems have none."""
    with contextlib.suppress(OSError, NotImplementedError):
        path.chmod(FILE_MODE)


def open_private(path: Path) -> int:
    """Open a file to append, and make it readable for this user alone; return its descriptor.

    Raises:
        OSError: the file cannot be created or is a link.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | NO_LINKS, FILE_MODE)
    try:
        if os.fstat(handle).st_mode & 0o077 and hasattr(os, "fchmod"):
            os.fchmod(handle, FILE_MODE)
    except BaseException:
        os.close(handle)
        raise
    return handle
