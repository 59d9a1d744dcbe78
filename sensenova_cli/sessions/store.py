"""The folder of all sessions: names, search and removal."""

import contextlib
import re
import secrets
import shutil
import stat
import time
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from config.toml_file import show_path
from config.validation import near_miss
from sensenova_cli.errors import SessionError, SessionWriteError
from sensenova_cli.sessions.lock import LOCK_FILE, is_locked, lock_session
from sensenova_cli.sessions.plain_files import is_plain
from sensenova_cli.sessions.saved import SESSION_FILE, read_session
from sensenova_cli.system.data_folder import data_folder
from sensenova_cli.system.interrupts import SignalStop

MAX_NAME_BYTES = 200
MAX_NAMED = 5
"""Most names in a message."""
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}-")
"""The beginning of a name that the program chose."""
REMOVED = ".removed-"
"""Beginning of the folder name of a session that is being removed. The rest is a random word and the name."""
SECONDS_UNTIL_ABANDONED = 24 * 3600
"""Age at which a folder without a session belongs to a program that was killed while it began one."""


def sessions_folder() -> Path:
    """Return the folder that contains one folder for each session."""
    return data_folder() / "sessions"


def session_folders() -> dict[str, Path]:
    """Return the folders of all sessions by name, sorted.

    Raises:
        SessionError: the folder of the sessions is not readable.
    """
    folder = sessions_folder()
    try:
        # A name with a leading dot is a session that is being removed.
        found = [path for path in folder.iterdir() if path.name[0] != "." and (path / SESSION_FILE).exists()]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SessionError(
            f"{show_path(folder)} cannot be read: {error.strerror or error}",
            "set SENSENOVA_DATA_DIR to another folder",
        ) from error
    return {_normal(path.name): path for path in sorted(found)}


def find_session(name: str) -> Path:
    """Return the folder of the session with this name.

    The beginning of a name is enough if no other session's name begins with it. The date may be left out.

    Raises:
        SessionError: no session has the name, and a similar one is suggested; or several begin with it.
    """
    known = session_folders()
    if _normal(name) in known:
        return known[_normal(name)]
    found = _beginning_with(name, known)
    if len(found) == 1:
        return known[found[0]]
    if found:
        names = ", ".join(found[:MAX_NAMED]) + (f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else "")
        raise SessionError(f"several sessions begin with {name!r}: {names}", "type more of the name")
    meant = near_miss(_normal(name), known)
    hint = f"did you mean {meant}? " if meant else ""
    raise SessionError(f"there is no session named {name!r}", f"{hint}`sensenova sessions list` lists all sessions")


def complete_name(name: str) -> str:
    """Return the name of the session to continue or start: that of the only session which begins with `name`, if
    `name` has a date; else `name` itself. A new session without a date may be called like the beginning of another one.
    """
    known = session_folders()
    found = _beginning_with(name, known) if _DATE.match(name) and _normal(name) not in known else []
    return found[0] if len(found) == 1 else name


def latest_session() -> Path:
    """Return the folder of the session with the latest entry.

    Raises:
        SessionError: there are no sessions yet.
    """
    folders = list(session_folders().values())
    if not folders:
        raise SessionError("there is no session to continue yet", "start one: sensenova repl")
    return max(folders, key=_last_used)


def check_name(name: str) -> str:
    """Check a user's name for a session, and return the name of its folder.

    Raises:
        SessionError: the name has characters that not every system allows for a folder, it starts or ends with one
            that is hard to type, or it is too long.
    """
    normal = _normal(name)
    allowed = all(letter.isalnum() or unicodedata.category(letter)[0] == "M" or letter in " ._-" for letter in normal)
    if not normal or not allowed or not normal[0].isalnum() or normal[-1] in " .":
        raise SessionError(
            f"{name!r} is not allowed as the name of a session",
            "use letters, digits, spaces, - _ and dots, beginning with a letter or digit",
        )
    if len(normal.encode()) > MAX_NAME_BYTES:
        raise SessionError(f"the name of the session is longer than {MAX_NAME_BYTES} bytes", "shorten it")
    return normal


def remove_session(folder: Path) -> None:
    """Remove a session and its pictures. A first Ctrl-C does not stop it halfway.

    Raises:
        SessionError: a process has the session open.
        SessionWriteError: the folder cannot be removed.
    """
    # In a folder with links nothing is opened, and removal does not follow them.
    lock = lock_session(folder) if is_plain(folder) else None
    # Renamed first: if the removal fails halfway, no half of a session stays in the list.
    hidden = folder.with_name(f"{REMOVED}{secrets.token_hex(6)}-{folder.name}")
    try:
        with SignalStop().listening(lambda: False):
            folder.rename(hidden)
            _remove_tree(hidden)
    except OSError as error:
        raise SessionWriteError(
            f"the session {folder.name} cannot be removed: {error.strerror or error}",
            f"check the permissions of {error.filename or folder}",
        ) from error
    finally:
        if lock is not None:
            lock.release()


def finish_removals() -> list[str]:
    """Remove what killed programs have left: sessions whose removal had begun, and folders of sessions without a turn.

    Returns:
        The names of the sessions whose removal is finished now.
    """
    finished = []
    try:
        folders = list(sessions_folder().iterdir())
    except (OSError, SessionError):
        return []
    for folder in folders:
        with contextlib.suppress(OSError):
            if folder.name.startswith(REMOVED):
                if is_plain(folder) and is_locked(folder):  # its removal goes on in another process
                    continue
                _remove_tree(folder)
                finished.append(folder.name.removeprefix(REMOVED).partition("-")[2] or "without a name")
            elif _is_abandoned(folder):
                (folder / LOCK_FILE).unlink(missing_ok=True)
                folder.rmdir()
    return finished


def _is_abandoned(folder: Path) -> bool:
    """Return whether a program was killed before it wrote the first line of this session."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or time.time() - status.st_mtime < SECONDS_UNTIL_ABANDONED:
        return False
    return {path.name for path in folder.iterdir()} <= {LOCK_FILE} and is_plain(folder) and not is_locked(folder)


def _remove_tree(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder)


def _last_used(folder: Path) -> datetime:
    try:
        return read_session(folder).used
    except SessionError:
        # Opening this session reports the error. Silently continuing an older session would be worse.
        return datetime.fromtimestamp((folder / SESSION_FILE).stat().st_mtime).astimezone()


def _beginning_with(name: str, known: Iterable[str]) -> list[str]:
    """Return the names that begin with `name`, with or without their date."""
    start = _normal(name)
    return [each for each in known if start and (each.startswith(start) or _DATE.sub("", each, 1).startswith(start))]


def _normal(name: str) -> str:
    """Return a name in composed form. macOS stores accented letters decomposed, but both forms are the same name."""
    return unicodedata.normalize("NFC", name)
