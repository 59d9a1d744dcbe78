"""The lock that processes hold while they change settings files, so that none of them loses the change of another."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from config.errors import SenseNovaError
from config.user_folder import has_user_folder, user_folder

LOCK_FILE = ".settings.lock"
"""File in the user's folder of settings. The operating system ends the lock of a process that was killed."""
PATIENCE = 10.0
"""Seconds to wait for another process, which needs a fraction of a second."""


@contextmanager
def changing_settings() -> Iterator[None]:
    """Hold the lock in a `with` block that reads a settings file, changes it and writes it.

    Without a folder that can be written, there is no lock: an error of the write then names the problem.

    Raises:
        SenseNovaError: another process does not release the lock.
    """
    from filelock import FileLock, Timeout  # needed only for changes

    with ExitStack() as stack:
        if has_user_folder():
            folder = user_folder()
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(folder / LOCK_FILE, timeout=PATIENCE, fallback_to_soft=False))
            except Timeout:  # it is an OSError, too
                raise SenseNovaError(
                    "another process is changing your settings, and does not finish", "end it, and try again"
                ) from None
            except OSError:
                pass  # the write reports it, or a project file elsewhere can be written
        yield
