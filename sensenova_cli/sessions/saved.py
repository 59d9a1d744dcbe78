"""Reading of saved sessions. Damaged lines are skipped and reported."""

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
from sensenova_cli.sessions.plain_files import require_plain_files
from sensenova_cli.sessions.state import State

MAX_LOG_BYTES = 256 * 2**20
"""Most bytes of a session's file. 10,000 turns have a hundredth of that."""
SESSION_FILE = "session.jsonl"
PICTURES_FOLDER = "pictures"

Line = tuple[int, bytes]
"""A line's number, from 1 up, and its bytes."""


@dataclass(frozen=True)
class Problem:
    """A damaged line or a missing file of a session.

    Attributes:
        place: the file; in `session.jsonl` also the number of the line.
        what: the damage.
    """

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclass(frozen=True)
class SavedSession:
    """The readable part of a session.

    Attributes:
        entries: the valid lines, in order.
        state: the state after the last entry.
        problems: the damage that was skipped.
        file_time: time of the last write, for a session without a valid line.
    """

    folder: Path
    entries: tuple[Entry, ...]
    state: State
    problems: tuple[Problem, ...]
    file_time: datetime

    @property
    def name(self) -> str:
        """The name under which the session is found."""
        return self.folder.name

    @property
    def created(self) -> datetime:
        """Time of the first entry."""
        return self.entries[0].when if self.entries else self.file_time

    @property
    def used(self) -> datetime:
        """Time of the last entry."""
        return self.entries[-1].when if self.entries else self.file_time

    @property
    def model(self) -> str:
        """The model of the last turn, or else of the last `Opened` entry; empty if neither exists."""
        if self.state.turns:
            return self.state.turns[-1].model
        return next((entry.model for entry in reversed(self.entries) if isinstance(entry, Opened)), "")

    @cached_property
    def missing(self) -> frozenset[int]:
        """Numbers of the pictures whose files are missing."""
        return frozenset(number for number in self.state.pictures if not self.path(number).is_file())

    def path(self, number: int) -> Path:
        """Return the file of a picture; errors as for State.picture."""
        return self.folder / PICTURES_FOLDER / self.state.picture(number).file


def read_session(folder: Path, *, own: bool = False) -> SavedSession:
    """Read a session. If another process is writing it, the line that it is writing is not included.

    Args:
        own: the caller holds the session's lock and is not writing now.

    Raises:
        SessionError: the folder has no session, the session is not readable, its folder contains links, or a newer
            version of the program wrote it.
    """
    require_plain_files(folder)
    file = folder / SESSION_FILE
    try:
        # Checked before reading: if the session is locked now, its last line may be incomplete without damage.
        locked = not own and is_locked(folder)
        if file.stat().st_size > MAX_LOG_BYTES:
            raise SessionError(f"{show_path(file)} has more than {MAX_LOG_BYTES:,} bytes", "it is not a session's file")
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
        problems.append(Problem(place, "is incomplete: the program ended while it wrote this line, which is lost"))
    saved = SavedSession(folder, tuple(entries), state, tuple(problems), time)
    for number in sorted(saved.missing):
        problems.append(Problem(show_path(saved.path(number)), f"picture {number} is missing"))
    return SavedSession(folder, tuple(entries), state, tuple(problems), time)


def split_lines(data: bytes) -> tuple[list[Line], Line | None]:
    """Return the complete lines of a session file without empty ones, and the last line if it is incomplete.

    A last line that lacks only its newline is complete: no prefix of a JSON object is valid JSON.
    """
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
    if lines and not data.endswith(b"\n") and not _is_json(lines[-1][1]):
        return lines[:-1], lines[-1]
    return lines, None


class _DamagedLineError(Exception):
    """An error for a line that is not a valid entry."""


class _NewerFormatError(SessionError):
    """An error for a session that was written in a newer format."""


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
        raise _DamagedLineError(f"byte {error.start + 1} of the line is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _DamagedLineError(f"is not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError):  # a number with thousands of digits, or brackets nested thousands deep
        raise _DamagedLineError("is not readable JSON") from None
    if not isinstance(content, dict):
        raise _DamagedLineError("is not a JSON object")
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
    where = ".".join(map(str, first["loc"][1:]))  # without the entry's kind
    if first["type"] == "value_error":
        return f"{where}: {first['ctx']['error']}"
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}"
