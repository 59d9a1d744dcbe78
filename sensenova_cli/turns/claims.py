"""Claims of pictures: two runs that write into one folder at the same time do not make a picture twice.

A run claims a picture by locking one byte of a file in the folder. The byte's position is a digest of what decides the
picture. The operating system ends the locks of a process that ends in any way, so a killed run leaves no claim. The
last run removes the file.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Collection
from pathlib import Path

from config.operating_system import NO_LINKS, NO_WAITING, lock_all_bytes, lock_byte

CLAIMS_FILE = ".sensenova.claims"
POSITIONS = 2**62
"""Number of positions; the largest one of a file is 2^63 - 1."""


class Claims:
    """The claims of one run.

    Args:
        folder: the folder of the pictures.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / CLAIMS_FILE
        self._descriptor: int | None = None

    def take(self, pictures: Collection[str]) -> bool:
        """Claim all pictures, or none of them.

        Args:
            pictures: texts that decide what each picture looks like.

        Returns:
            Whether this run has claimed them. Otherwise another run has claimed one of them.

        Raises:
            OSError: the folder cannot be written, its file system has no locks, or something else has the file's name.
        """
        self.release()
        # In this order, one of two runs that claim the same pictures at the same moment gets all of them.
        positions = sorted({int.from_bytes(hashlib.sha256(each.encode()).digest()) % POSITIONS for each in pictures})
        while True:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = self._open()
            try:
                is_mine = all(lock_byte(self._descriptor, each) for each in positions)
                is_there = self._is_there()
            except OSError:
                self._close()
                raise
            if is_mine and is_there:
                return True
            self._close()
            if not is_mine:
                return False
            # Another run has removed the file between its opening and its locking.

    def release(self) -> None:
        """End the claims, and remove the file if no other run has claimed a picture in this folder."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # the file is left then, which the next run uses
                if lock_all_bytes(self._descriptor) and self._is_there():
                    self._path.unlink()
            self._close()

    def _open(self) -> int:
        if self._path.is_symlink() or (self._path.exists() and not self._path.is_file()):
            raise OSError(errno.EINVAL, f"{CLAIMS_FILE} in it is not an ordinary file: remove it")
        return os.open(self._path, os.O_RDWR | os.O_CREAT | NO_LINKS | NO_WAITING, 0o666)

    def _is_there(self) -> bool:
        """Return whether the open file is still the one with this name."""
        assert self._descriptor is not None
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
