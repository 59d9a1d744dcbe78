"""Rows of the log's table of entries, and the entries that they stand for."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sensenova_cli.log.entries import LogEntry, LoggedFile
from sensenova_cli.system.unicode import valid_unicode

if TYPE_CHECKING:
    import sqlite3

COLUMNS = (
    "time",
    "task",
    "prompt",
    "status",
    "reason",
    "seconds",
    "model",
    "session",
    "answer",
    "original",
    "paths",
    "details",
)
"""Columns of an entry, apart from its number."""
_TEXTS = ("task", "prompt", "status", "reason", "model", "session", "answer", "original")
_DETAILS = ("settings", "loaded", "inputs", "files", "system", "earlier")
"""Fields of an entry that one JSON column holds: nothing searches them."""


class DamagedEntryError(ValueError):
    """A row that does not contain an entry."""


def row_of(entry: LogEntry) -> list[Any]:
    """Return the columns of an entry. Text that is not valid Unicode is escaped, because SQLite refuses it."""
    details = {name: getattr(entry, name) for name in _DETAILS} | {"files": [asdict(file) for file in entry.files]}
    text = {
        "time": time_text(entry.time),
        "paths": "\n".join(file.path for file in entry.files),
        "details": json.dumps(details, ensure_ascii=True),
        **{name: getattr(entry, name) for name in COLUMNS if name not in ("time", "paths", "details")},
    }
    return [valid_unicode(value) if isinstance(value := text[name], str) else value for name in COLUMNS]


def entry_of(row: "sqlite3.Row") -> LogEntry:
    """Return the entry of a row.

    Raises:
        DamagedEntryError: a value is missing or has a wrong type.
    """
    try:
        details = json.loads(row["details"])
        entry = LogEntry(
            **{name: row[name] for name in _TEXTS},
            number=row["number"],
            seconds=float(row["seconds"]),
            time=datetime.fromisoformat(row["time"]),
            settings=details["settings"],
            loaded=details["loaded"],
            inputs=tuple(details["inputs"]),
            files=tuple(LoggedFile(**file) for file in details["files"]),
            system=details["system"],
            earlier=details["earlier"],
        )
        entry.time.astimezone()  # fails for years that no clock has
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise DamagedEntryError(str(error)) from None
    texts = [*(getattr(entry, name) for name in _TEXTS), *entry.inputs, entry.system or ""]
    texts += [text for file in entry.files for text in (file.path, file.sha256)]
    counts = [entry.earlier, *(file.bytes for file in entry.files)]
    if (
        not all(isinstance(text, str) for text in texts)
        or not all(isinstance(count, int) for count in counts)
        or not all(isinstance(values, Mapping) for values in (entry.settings, entry.loaded))
    ):
        raise DamagedEntryError("a value has a wrong type")
    return entry


def time_text(time: datetime) -> str:
    """Return a time in UTC as text whose alphabetical order is that of time."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds")
