"""Check a session's folder before a file in it is opened, because another person may have made the folder.

A link in it could make the program read, change or send a file of the user that does not belong to the session. A pipe
would make the program wait forever.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path

from config.toml_file import show_path
from sensenova_cli.errors import SessionError
from sensenova_cli.system.atomic_files import PARTIAL

FOLDERS = ("pictures",)
"""Folders of a session. All other entries are files."""


def require_plain_files(folder: Path) -> None:
    """Check that a session's folder contains only regular files with one name each, and real folders.

    Raises:
        SessionError: an entry is a link, a pipe, a device or a file with several names; the message names it.
    """
    _require(folder, stat.S_ISDIR)
    try:
        for entry in os.scandir(folder):
            if entry.name in FOLDERS:
                _require(Path(entry.path), stat.S_ISDIR)
                for file in os.scandir(entry.path):
                    _require(Path(file.path), stat.S_ISREG)
            else:
                _require(Path(entry.path), stat.S_ISREG)
    except OSError:  # a missing or unreadable folder is reported when it is opened
        return


def is_plain(folder: Path) -> bool:
    """Return whether `require_plain_files` accepts a folder."""
    try:
        require_plain_files(folder)
    except SessionError:
        return False
    return True


def _require(path: Path, has_kind: Callable[[int], bool]) -> None:
    try:
        status = path.lstat()
    except OSError:
        return
    if stat.S_ISLNK(status.st_mode):
        problem = "is a link"
    elif not has_kind(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        problem = "is not a folder" if stat.S_ISREG(status.st_mode) else "is neither a file nor a folder"
    elif stat.S_ISREG(status.st_mode) and status.st_nlink > 1 and not _is_half_renamed(path, status):
        problem = "has several names (hard links)"
    else:
        return
    raise SessionError(
        f"{show_path(path)} {problem}, so the session is not opened",
        "if the session is yours, replace it by a copy: cp -L; if another person made it, do not trust it",
    )


def _is_half_renamed(path: Path, status: os.stat_result) -> bool:
    """Return whether a file's other name is the temporary one of a program that was killed while it wrote the file."""
    names = [entry.name for entry in os.scandir(path.parent) if entry.inode() == status.st_ino]
    return len(names) == status.st_nlink and sum(PARTIAL.fullmatch(name) is None for name in names) <= 1
