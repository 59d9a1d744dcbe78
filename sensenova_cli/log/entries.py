"""An entry of the log: one request of a one-shot command or of a session, with its results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LoggedFile:
    """A file that a request has written, as it was at that moment.

    Attributes:
        path: absolute path.
        bytes: size of the file; -1 if it could not be read.
        sha256: checksum of its content; empty if it could not be read.
    """

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class LogEntry:
    """One request.

    Attributes:
        task: the command, such as `generate`.
        status: `done`, `failed` or `cancelled`.
        reason: why the request did not finish; empty for `done`.
        settings: size and seed of pictures, and the picture and text settings that differ from their defaults.
        loaded: load settings that differ from their defaults, of those that a picture's record has; and the server.
        inputs: absolute paths of the input pictures; `-` for standard input, and `clipboard` for the clipboard.
        original: the user's prompt, if a model has rewritten it; else empty.
        system: the system message; None if the command has none, or for the one that the model was trained with.
        earlier: number of earlier turns of the conversation.
        session: name of the saved session; empty for a one-shot command.
        number: number of the entry in the log; 0 before it is written.
        time: start of the request, in UTC.
    """

    task: str
    prompt: str
    status: str
    reason: str
    seconds: float
    model: str
    settings: Mapping[str, Any]
    loaded: Mapping[str, Any]
    inputs: tuple[str, ...] = ()
    files: tuple[LoggedFile, ...] = ()
    answer: str = ""
    original: str = ""
    system: str | None = None
    earlier: int = 0
    session: str = ""
    number: int = 0
    time: datetime = field(default_factory=lambda: datetime.now(UTC))


def describe_files(paths: Sequence[Path]) -> tuple[LoggedFile, ...]:
    """Return the files with their sizes and checksums. A file that cannot be read keeps its path."""
    return tuple(_describe(path.absolute()) for path in dict.fromkeys(paths))


def _describe(path: Path) -> LoggedFile:
    import hashlib  # a search of the log does not need it

    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return LoggedFile(str(path), file.tell(), digest)
    except (OSError, ValueError):
        return LoggedFile(str(path), -1, "")
