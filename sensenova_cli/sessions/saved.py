"""A session as it lies on disk, read back: what is whole is taken, what is damaged is named."""

import json
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from config.toml_file import show_path
from sensenova_cli.errors import SessionError
from sensenova_cli.sessions.entries import ENTRY, FORMAT, Entry, Opened
from sensenova_cli.sessions.lock import is_locked
from sensenova_cli.sessions.state import State

SESSION_FILE = "session.jsonl"
PICTURES_FOLDER = "pictures"

Line = tuple[int, bytes]
"""A line with its number, from 1."""


@dataclass(frozen=True)
class Problem:
    """Something in a session that is damaged or missing.

    Attributes:
        place: a file, with the number of the line in `session.jsonl`.
    """

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclass(frozen=True)
class SavedSession:
    """What could be read of a session.

    Attributes:
        entries: the good lines, in order.
        state: where they lead.
        problems: what was passed over.
        file_time: when the session file was last written, for a session without a good line.
    """

    folder: Path
    entries: tuple[Entry, ...]
    state: State
    problems: tuple[Problem, ...]
    file_time: datetime

    @property
    def name(self) -> str:
        """The name under which it is found."""
        return self.folder.name

    @property
    def created(self) -> datetime:
        """When it began."""
        return self.entries[0].when if self.entries else self.file_time

    @property
    def used(self) -> datetime:
        """When something last happened in it."""
        return self.entries[-1].when if self.entries else self.file_time

    @property
    def model(self) -> str:
        """The model of its last turn, or the one it was opened with; empty where neither is known."""
        if self.state.turns:
            return self.state.turns[-1].model
        return next((entry.model for entry in reversed(self.entries) if isinstance(entry, Opened)), "")

    @cached_property
    def missing(self) -> frozenset[int]:
        """Numbers of the pictures whose files are gone."""
        return frozenset(number for number in self.state.pictures if not self.path(number).is_file())

    def path(self, number: int) -> Path:
        """The file of a picture; errors as for State.picture."""
        return self.folder / PICTURES_FOLDER / self.state.picture(number).file


def read_session(folder: Path, *, own: bool = False) -> SavedSession:
    """Read a session. Another process may be writing it meanwhile: the line that it is at is not there yet.

    Args:
        own: the caller holds the session's lock, and is not writing just now.

    Raises:
        SessionError: there is none, it cannot be read, or a newer version of the program has written it.
    """
    file = folder / SESSION_FILE
    try:
        locked = not own and is_locked(
            folder
        )  # asked first: a line that is incomplete afterwards was written under the lock
        data = file.read_bytes()
        time = datetime.fromtimestamp(file.stat().st_mtime).astimezone()
    except FileNotFoundError:
        raise SessionError(f"there is no session in {folder}", "see: sensenova sessions list") from None
    except OSError as error:
        raise SessionError(f"{file} cannot be read: {error.strerror or error}", "check its permissions") from error
    whole, torn = split_lines(data)
    entries: list[Entry] = []
    problems: list[Problem] = []
    state = State()
    for number, line in whole:
        place = f"{show_path(file)}:{number}"
        try:
            entry = _entry(line, folder)
            state = state.after(entry)
        except _DamagedLineError as problem:
            problems.append(Problem(place, str(problem)))
            continue
        except SessionError as problem:
            if isinstance(problem, _NewerFormatError):
                raise
            problems.append(Problem(place, problem.what))
            continue
        if not entries and not isinstance(entry, Opened):
            problems.append(Problem(f"{show_path(file)}:1", "the line that opens the session is missing"))
        entries.append(entry)
    if not whole and not torn:
        problems.append(Problem(show_path(file), "the file is empty"))
    if torn and not locked:
        place = f"{show_path(file)}:{torn[0]}"
        problems.append(Problem(place, "breaks off; the program was ended while it wrote this line, which is lost"))
    saved = SavedSession(folder, tuple(entries), state, tuple(problems), time)
    for number in sorted(saved.missing):
        problems.append(Problem(show_path(saved.path(number)), f"picture {number} is missing"))
    return SavedSession(folder, tuple(entries), state, tuple(problems), time)


def split_lines(data: bytes) -> tuple[list[Line], Line | None]:
    """The lines of a session file without empty ones, and the last one apart where it breaks off.

    A last line that lacks nothing but its newline is whole: no beginning of a JSON object is one itself.
    """
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
    if lines and not data.endswith(b"\n") and not _is_json(lines[-1][1]):
        return lines[:-1], lines[-1]
    return lines, None


class _DamagedLineError(Exception):
    """A line is no entry."""


class _NewerFormatError(SessionError):
    """A program with a newer format has written the session."""


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return False
    return True


def _entry(line: bytes, folder: Path) -> Entry:
    try:
        content = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _DamagedLineError(f"byte {error.start + 1} of the line is no UTF-8") from None
    except json.JSONDecodeError as error:
        raise _DamagedLineError(f"is no JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, or brackets as deep
        raise _DamagedLineError("is no JSON that can be read") from None
    if not isinstance(content, dict):
        raise _DamagedLineError("is no JSON object")
    if content.get("kind") == "opened" and isinstance(content.get("format"), int) and content["format"] > FORMAT:
        raise _NewerFormatError(
            f"the session {folder.name} was written by a newer version of sensenova "
            f"({content.get('version', 'unknown')})",
            "update sensenova to open it",
        )
    try:
        return ENTRY.validate_python(content)
    except ValidationError as error:
        raise _DamagedLineError(_reason(content, error)) from None


def _reason(content: dict[str, Any], error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "union_tag_not_found":
        return 'has no "kind"'
    if first["type"] == "union_tag_invalid":
        return f'"kind": {json.dumps(content["kind"], ensure_ascii=False)} is unknown'
    where = ".".join(map(str, first["loc"][1:]))  # without the kind
    if first["type"] == "value_error":
        return f"{where}: {first['ctx']['error']}"
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}"
