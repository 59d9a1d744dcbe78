"""The address and the key of a server, and the note by which a server on this machine is found."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from platformdirs import user_state_path

from config.mentions import mention
from config.settings import LoadSettings
from model.errors import RequestError

KEY_VARIABLE = "SENSENOVA_SERVER_KEY"
GO_ON = f"start one with `sensenova serve`, or load the model here: {mention('server', 'off')}"


@dataclass(frozen=True)
class Address:
    """Where a server is.

    Attributes:
        url: without a slash at the end.
        key: the key to send; None without one.
        is_local: whether it was found by the note of a server on this machine.
    """

    url: str
    key: str | None
    is_local: bool = False


@dataclass(frozen=True)
class LocalServer:
    """The note that a running server leaves for programs of the same user."""

    url: str
    key: str | None
    process: int


def find_address(settings: LoadSettings) -> Address:
    """Return the address that the settings name.

    Raises:
        RequestError: no server runs on this machine, or the key's file cannot be read.
    """
    assert settings.server is not None
    key = _read_key(settings)
    if settings.server == "local":
        note = read_note()
        if note is None:
            raise RequestError("no server of yours runs on this machine", GO_ON)
        return Address(note.url, key or note.key, is_local=True)
    url = settings.server if "://" in settings.server else f"http://{settings.server}"
    return Address(url.rstrip("/").removesuffix("/v1"), key)


def note_file() -> Path:
    """Return the file of the note. The variable SENSENOVA_DATA_DIR overrides its folder."""
    override = os.environ.get("SENSENOVA_DATA_DIR")
    folder = Path(override).expanduser() if override else user_state_path("sensenova", appauthor=False)
    return folder / "server.json"


def read_note() -> LocalServer | None:
    """Return the note of the last server that was started on this machine; None if there is none.

    The note is only used if nobody else can have written it.
    """
    try:
        file = note_file()
        status = file.stat(follow_symlinks=False)
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            return None
        content = json.loads(file.read_text(encoding="utf-8"))
        return LocalServer(str(content["url"]), content["key"], int(content["process"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_note(url: str, key: str | None) -> None:
    """Leave the note of this process. Only the user can read it.

    Raises:
        OSError: it cannot be written.
    """
    file = note_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f"{file.name}.{os.getpid()}.part")
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        json.dump(asdict(LocalServer(url, key, os.getpid())), stream)
    scratch.replace(file)


def remove_note() -> None:
    """Remove the note of this process; one of another process stays."""
    note = read_note()
    if note is not None and note.process == os.getpid():
        note_file().unlink(missing_ok=True)


def _read_key(settings: LoadSettings) -> str | None:
    if settings.server_key_file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        return Path(settings.server_key_file).expanduser().read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise RequestError(f"{settings.server_key_file}: the server's key cannot be read: {reason}") from None
