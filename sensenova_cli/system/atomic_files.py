"""Files that appear under their name whole or not at all, even when the disk is full or Ctrl-C is pressed."""

import errno
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

NO_HARD_LINKS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}
"""How file systems without hard links (FAT, some network shares, Android) answer `os.link`."""


def replace_file(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write `data`, whole or in parts, to `path`, in place of what is there.

    Raises:
        OSError: the write failed, and `path` is as it was.
    """
    temporary = _temporary(path.parent)
    try:
        _write_synced(temporary, data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def create_file(candidates: Iterable[Path], data: bytes | Iterable[bytes]) -> Path | None:
    """Write `data`, whole or in parts, to the first of `candidates`, all in one folder, that does not exist yet.

    Returns:
        The file, or None when all of them exist.

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
            temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Raise OSError unless a file can be created in `folder` and holds what is written to it.

    Permission bits tell too little (root ignores them, read-only mounts and full disks do not show in them), so
    a small file is written and removed.
    """
    probe = _temporary(folder)
    try:
        _write_synced(probe, bytes(4096))
    finally:
        probe.unlink(missing_ok=True)


def _temporary(folder: Path) -> Path:
    return folder / f".sensenova-{secrets.token_hex(6)}.part"


def _write_synced(path: Path, data: bytes | Iterable[bytes]) -> None:
    # Opened by hand instead of with tempfile, so that the file gets the permissions of the user's umask.
    with path.open("xb") as file:
        file.writelines([data] if isinstance(data, bytes) else data)
        file.flush()
        os.fsync(file.fileno())


def _rename_to_free(temporary: Path, path: Path) -> None:
    """Give the file its name unless the name is taken: FileExistsError. `temporary` may remain as a second name."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        with path.open("xb"):  # claims the name
            pass
        try:
            temporary.replace(path)
        except BaseException:
            path.unlink()
            raise
