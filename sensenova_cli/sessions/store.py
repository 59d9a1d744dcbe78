"""Where sessions lie, what they are called, and how one is found or removed."""

import os
import secrets
import shutil
import unicodedata
from datetime import datetime
from pathlib import Path

from platformdirs import user_data_path

from config.toml_file import show_path
from config.validation import near_miss
from sensenova_cli.errors import SessionError, SessionWriteError
from sensenova_cli.sessions.lock import lock_session
from sensenova_cli.sessions.saved import SESSION_FILE, read_session

MAX_NAME_BYTES = 200


def data_folder() -> Path:
    """Folder of what the program keeps for the user; the variable SENSENOVA_DATA_DIR moves it."""
    moved = os.environ.get("SENSENOVA_DATA_DIR")
    return Path(moved).expanduser() if moved else user_data_path("sensenova", appauthor=False)


def sessions_folder() -> Path:
    """The folder in which each session has a folder of its own."""
    return data_folder() / "sessions"


def session_folders() -> dict[str, Path]:
    """All sessions by name, sorted by it.

    Raises:
        SessionError: the folder of the sessions cannot be looked into.
    """
    folder = sessions_folder()
    try:
        # A name in front of which a dot stands is a session that is being removed.
        found = [path for path in folder.iterdir() if path.name[0] != "." and (path / SESSION_FILE).exists()]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SessionError(
            f"{show_path(folder)} cannot be looked into: {error.strerror or error}",
            "set SENSENOVA_DATA_DIR to another folder",
        ) from error
    return {_normal(path.name): path for path in sorted(found)}


def find_session(name: str) -> Path:
    """The folder of the session of this name.

    Raises:
        SessionError: there is none; a name that was probably meant is suggested.
    """
    known = session_folders()
    if _normal(name) in known:
        return known[_normal(name)]
    meant = near_miss(_normal(name), known)
    hint = f"did you mean {meant}? " if meant else ""
    raise SessionError(f"there is no session named {name!r}", f"{hint}See: sensenova sessions list")


def latest_session() -> Path:
    """The folder of the session in which something happened last.

    Raises:
        SessionError: there is no session yet.
    """
    folders = list(session_folders().values())
    if not folders:
        raise SessionError("there is no session to continue yet", "start one: sensenova repl")
    return max(folders, key=_last_used)


def check_name(name: str) -> str:
    """A name that a user chose for a session, as it is written to disk.

    Raises:
        SessionError: it could not be a folder's name everywhere, or would need care to be typed.
    """
    normal = _normal(name)
    allowed = all(letter.isalnum() or unicodedata.category(letter)[0] == "M" or letter in " ._-" for letter in normal)
    if not normal or not allowed or not normal[0].isalnum() or normal[-1] in " .":
        raise SessionError(
            f"{name!r} is no name for a session",
            "use letters, digits, spaces, - _ and dots, beginning with a letter or digit",
        )
    if len(normal.encode()) > MAX_NAME_BYTES:
        raise SessionError(f"the name of the session is longer than {MAX_NAME_BYTES} bytes", "shorten it")
    return normal


def remove_session(folder: Path) -> None:
    """Remove a session with its pictures.

    Raises:
        SessionError: a process has it open.
        SessionWriteError: it cannot be removed.
    """
    lock = lock_session(folder)
    # Renamed first: if the removal fails halfway, no half of a session stays in the list.
    hidden = folder.with_name(f".removed-{secrets.token_hex(6)}")
    try:
        folder.rename(hidden)
        if hidden.is_symlink():
            hidden.unlink()
        else:
            shutil.rmtree(hidden)
    except OSError as error:
        raise SessionWriteError(
            f"the session {folder.name} cannot be removed: {error.strerror or error}",
            f"check the permissions of {error.filename or folder}",
        ) from error
    finally:
        lock.release()


def _last_used(folder: Path) -> datetime:
    try:
        return read_session(folder).used
    except SessionError:
        # It says so when it is opened; going on with an older one in silence would be worse.
        return datetime.fromtimestamp((folder / SESSION_FILE).stat().st_mtime).astimezone()


def _normal(name: str) -> str:
    """macOS takes letters with accents apart; both spellings are one name."""
    return unicodedata.normalize("NFC", name)
