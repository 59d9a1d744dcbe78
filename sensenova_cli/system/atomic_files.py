"""Atomic writes: a file is complete or does not appear, even if the disk is full or the user presses Ctrl-C."""

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from sensenova_cli.system.interrupts import unwinding

NO_HARD_LINKS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}
"""Errors of `os.link` on file systems without hard links (FAT, some network shares, Android)."""

PARTIAL = re.compile(r"\.sensenova-[0-9a-f]{12}\.part")
"""Names of files that are being written."""
SECONDS_UNTIL_ABANDONED = 24 * 3600
"""Age at which a partial file belongs to a program that was killed."""
_swept: set[Path] = set()
"""Folders in which this process has removed abandoned files."""


@unwinding()
def replace_file(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write `data`, whole or in parts, to `path`; an existing file is replaced.

    Raises:
        OSError: the write failed, and `path` is unchanged.
    """
    temporary = _temporary(path.parent)
    try:
        _write_synced(temporary, data)
        temporary.replace(path)
    finally:
        _remove(temporary)


@unwinding()
def create_file(candidates: Iterable[Path], data: bytes | Iterable[bytes]) -> Path | None:
    """Write `data`, whole or in parts, to the first of `candidates` that does not exist.

    All candidates must be in the same folder.

    Returns:
        The file, or None if all of them exist.

    Raises:
        OSError: the write failed, and no file was created.
    """
    temporary: Path | None = None
    try:
        for path in candidates:
            if temporary is None:
                temporary = _temporary(path.parent)
                _write_synced(temporary, data)
            try:
                _rename_to_free(temporary, path)
            except FileExistsError:
                continue
            return path
        return None
    finally:
        if temporary is not None:
            _remove(temporary)


@unwinding()
def check_writable(folder: Path) -> None:
    """Raise OSError unless a file can be created and written in `folder`.

    Writes a small file and removes it. Permission bits are not enough: root ignores them, and they do not show
    read-only mounts and full disks.
    """
    probe = _temporary(folder)
    try:
        _write_synced(probe, bytes(4096))
    finally:
        _remove(probe)


def _remove(temporary: Path) -> None:
    """Remove a temporary file, also if the first signal arrives now."""
    try:
        temporary.unlink(missing_ok=True)
    except KeyboardInterrupt:
        temporary.unlink(missing_ok=True)
        raise


def _temporary(folder: Path) -> Path:
    _remove_abandoned(folder)
    return folder / f".sensenova-{secrets.token_hex(6)}.part"


def _remove_abandoned(folder: Path) -> None:
    """Remove partial files of killed programs, once in each folder that this process writes to."""
    if folder in _swept:
        return
    _swept.add(folder)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if PARTIAL.fullmatch(entry.name):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > SECONDS_UNTIL_ABANDONED:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)  # noqa: PTH108


def _write_synced(path: Path, data: bytes | Iterable[bytes]) -> None:
    # Not `tempfile`: the file must get the permissions of the user's umask.
    with path.open("xb") as file:
        file.writelines([data] if isinstance(data, bytes) else data)
        file.flush()
        os.fsync(file.fileno())


def _rename_to_free(temporary: Path, path: Path) -> None:
    """Rename the file, or raise FileExistsError if the name is taken. `temporary` may remain as a second name."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        with path.open("xb"):  # reserves the name
            pass
        try:
            temporary.replace(path)
        except BaseException:
            path.unlink()
            raise
