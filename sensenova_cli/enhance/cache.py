"""Earlier replies, so that the same prompt is rewritten once. They are in a file that only the user can read."""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from config.operating_system import NO_LINKS, NO_WAITING
from sensenova_cli.errors import EnhanceError, SessionError
from sensenova_cli.system.atomic_files import replace_file
from sensenova_cli.system.data_folder import data_folder
from sensenova_cli.system.private_files import make_private, make_private_folder, open_private

FILE = "enhanced-prompts.jsonl"
MOST = 2000
"""Number of replies above which the older half is forgotten."""
MAX_BYTES = 2**25
"""Longest file that is read. A longer one was not written by this program."""


def reply_key(kind: str, prompt: str, instruction: str, author: str, pictures: Sequence[str]) -> str:
    """Return the key of a reply: a checksum of everything that it depends on.

    Args:
        author: the model that writes it.
        pictures: checksums of the pictures that it sees.
    """
    content = json.dumps([kind, prompt, instruction, author, *pictures])
    return hashlib.sha256(content.encode()).hexdigest()


class Reply(NamedTuple):
    """A prompt that a model has rewritten, and the name of the model."""

    text: str
    author: str


def find_reply(key: str) -> Reply | None:
    """Return an earlier reply; None if there is none, or if the file cannot be read."""
    found = None
    for line in _lines():
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            entry = json.loads(line)
            if entry["key"] == key:
                found = Reply(str(entry["text"]), str(entry["author"]))
    return found


def store_reply(key: str, reply: Reply) -> None:
    """Store a reply. A file that cannot be written is no error: the next run asks again."""
    with contextlib.suppress(OSError, SessionError):
        file = _file()
        make_private_folder(file.parent)
        handle = open_private(file)
        with os.fdopen(handle, "a", encoding="ascii") as stream:
            stream.write(json.dumps({"key": key, **reply._asdict()}) + "\n")
        lines = _lines()
        if len(lines) > MOST:
            replace_file(file, b"".join(line + b"\n" for line in lines[-MOST // 2 :]))
            make_private(file)


def forget_replies() -> int:
    """Remove all replies, and return their number.

    Raises:
        EnhanceError: the file cannot be removed.
        SessionError: the user has no home folder.
    """
    count, file = len(_lines()), _file()
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise EnhanceError(f"{file} cannot be removed: {error.strerror}", "remove it yourself") from None
    return count


def _file() -> Path:
    return data_folder() / FILE


def _lines() -> list[bytes]:
    try:
        file = _file()
        if not file.is_file():
            return []
        with os.fdopen(os.open(file, os.O_RDONLY | NO_LINKS | NO_WAITING), "rb") as stream:
            return [line for line in stream.read(MAX_BYTES).split(b"\n") if line]
    except (OSError, SessionError):
        return []
