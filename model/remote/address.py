"""The address and the key of a server, and the note by which a server on this machine is found."""

import contextlib
import json
import os
import platform
import re
import stat
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path

from platformdirs import user_state_path

from config.mentions import mention
from config.operating_system import NO_LINKS, NO_WAITING, is_private
from config.settings import LoadSettings
from model.errors import RequestError, ServerError

KEY_VARIABLE = "SENSENOVA_SERVER_KEY"
GO_ON = f"start one with `sensenova serve`, or load the model here: {mention('server', 'off')}"
NAME_A_FILE = "name a file that contains only the key: `server_key_file`"
MAX_NOTE = 10_000
"""Most bytes of a note."""


@dataclass(frozen=True)
class Address:
    """The address of a server, and its key.

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
        ServerError: no server runs on this machine.
        RequestError: the key cannot be read or used.
    """
    assert settings.server is not None
    if settings.server == "local":
        note = read_note()
        if note is None:
            raise ServerError("no server of yours runs on this machine", GO_ON)
        if not _is_running(note.process):  # another program may use its port now, and must not get the key
            raise ServerError(f"the server at {note.url} has ended without removing its note", GO_ON)
        # The variable holds the key of another server, if there are several; a file was named for this one.
        key = _read_key(settings) if settings.server_key_file is not None or note.key is None else note.key
        return Address(note.url, key, is_local=True)
    url = settings.server if "://" in settings.server else f"http://{settings.server}"
    return Address(url.rstrip("/").removesuffix("/v1"), _read_key(settings))


def note_file() -> Path:
    """Return the file of the note. Its name contains the machine's, because machines may share a home folder.

    The variable SENSENOVA_DATA_DIR overrides the folder.
    """
    override = os.environ.get("SENSENOVA_DATA_DIR")
    folder = Path(override).expanduser() if override else user_state_path("sensenova", appauthor=False)
    machine = re.sub(r"[^\w.-]", "_", platform.node()) or "this-machine"
    return folder / f"server-{machine}.json"


def read_note() -> LocalServer | None:
    """Return the note of the last server that was started on this machine; None if there is none.

    Raises:
        ServerError: it cannot be read, or another user may have written it, to receive prompts and pictures.
    """
    file = note_file()
    remove = f"remove it, and start the server again: rm {file}"
    try:
        handle = os.open(file, os.O_RDONLY | NO_LINKS | NO_WAITING)
        with os.fdopen(handle, encoding="utf-8") as stream:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or not is_private(status):
                raise ServerError(f"{file} is not used: other users may have written or read it", remove)
            content = json.loads(stream.read(MAX_NOTE))
        url, key, process = content["url"], content["key"], content["process"]
        if not isinstance(url, str) or not isinstance(key, str | None) or not isinstance(process, int):
            raise TypeError
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ServerError(f"{file} is not the note of a server", remove) from None
    return LocalServer(url, key, process)


def write_note(url: str, key: str | None) -> None:
    """Write the note of this process. Only the user can read it.

    Raises:
        OSError: it cannot be written.
    """
    file = note_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f"{file.name}.{os.getpid()}.part")
    scratch.unlink(missing_ok=True)  # of an earlier process with this number
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINKS, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(asdict(LocalServer(url, key, os.getpid())), stream)
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)


def remove_note() -> None:
    """Remove the note if this process has written it."""
    try:
        note = read_note()
    except ServerError:
        return
    if note is not None and note.process == os.getpid():
        with contextlib.suppress(OSError):  # a note of a process that has ended is ignored
            note_file().unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    """Return whether a process of this user runs."""
    if not 0 < process < 2**31:
        return False
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


def is_usable_key(key: str) -> bool:
    """Return whether a key can be sent in a header: one word of visible ASCII characters."""
    return bool(key) and key.isascii() and key.isprintable() and " " not in key


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_key(settings: LoadSettings) -> str | None:
    if settings.server_key_file is None:
        source, key = KEY_VARIABLE, os.environ.get(KEY_VARIABLE, "").strip()
        if not key:
            return None
    else:
        source = settings.server_key_file
        try:
            key = Path(source).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~nobody
            reason = getattr(error, "strerror", None) or "it is not text"
            raise RequestError(f"{source}: the server's key cannot be read: {reason}", NAME_A_FILE) from None
    if not is_usable_key(key):
        raise RequestError(f"{source} contains no usable key", "a key is one word of letters and digits")
    return key
