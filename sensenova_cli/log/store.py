"""The database of the log: SQLite, in a file that only the user can read.

Several processes write it at once. SQLite's own lock orders them, and each waits for a limited time.
"""

import errno
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from config.paths import show_path
from sensenova_cli.errors import LogError, SessionError
from sensenova_cli.log.entries import LogEntry, LoggedFile
from sensenova_cli.system.private_files import FILE_MODE, make_private_folder, open_private
from sensenova_cli.system.unicode import valid_unicode
from sensenova_cli.system.user_folders import data_folder

if TYPE_CHECKING:
    import sqlite3

# Functions import sqlite3: a one-shot needs it only after its results are written.

LOG_FOLDER = "log"
"""Folder of the log, beside that of the sessions."""
LOG_FILE = "log.sqlite"
PATIENCE = 1.0
"""Seconds to wait for other processes that write the log."""
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of opening a file that may still be readable."""
APPLICATION_ID = 0x53554C47
"""Number in the database's header, by which a database of another program is recognized."""
VERSION = 1
"""Version of the tables."""
NEWEST = 1000
"""Number of the newest entries that `folders` and `models` read."""
SHORTEST_TERM = 3
"""Characters of the shortest word that the index finds: it contains all runs of three characters."""

_TABLES = (
    """
    CREATE TABLE entries (
      number INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, task TEXT NOT NULL, prompt TEXT NOT NULL,
      status TEXT NOT NULL, reason TEXT NOT NULL, seconds REAL NOT NULL, model TEXT NOT NULL, session TEXT NOT NULL,
      answer TEXT NOT NULL, original TEXT NOT NULL, paths TEXT NOT NULL, details TEXT NOT NULL
    )
    """,
    "CREATE INDEX times ON entries (time)",  # it also counts the entries faster than the table
)
_INDEX = "CREATE VIRTUAL TABLE words USING fts5(text, tokenize = 'trigram')"
_TEXT = "prompt || char(10) || answer || char(10) || original || char(10) || paths"
_COLUMNS = (
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
_DETAILS = ("settings", "loaded", "inputs", "files", "system", "earlier")
"""Fields of an entry that one JSON column holds: nothing searches them."""

T = TypeVar("T")


def log_file() -> Path:
    """Return the path of the log, which need not exist.

    Raises:
        LogError: the user has no home folder.
    """
    try:
        return data_folder() / LOG_FOLDER / LOG_FILE
    except SessionError as error:
        raise LogError(f"the log has no place: {error.what}", error.hint) from None


class Log:
    """The log. Every method opens the database and closes it.

    A damaged database is renamed, never removed, and an empty one takes its place.

    Args:
        on_notice: called with a sentence if the database was damaged.
        file: the database; None for the user's.

    Errors of all methods:
        LogError: the database is locked, cannot be read or written, or is from a newer version.
    """

    def __init__(self, on_notice: Callable[[str], None], file: Path | None = None) -> None:
        self.file = log_file() if file is None else file
        self._on_notice = on_notice

    def append(self, entries: Sequence[LogEntry], patience: float = PATIENCE) -> None:
        """Write entries.

        Args:
            patience: seconds to wait for another process.
        """
        rows = [_row(entry) for entry in entries]

        def write(database: "sqlite3.Connection") -> None:
            marks = ", ".join("?" * len(_COLUMNS))
            database.execute("BEGIN IMMEDIATE")
            has_index = _has_index(database)
            for row in rows:
                written = database.execute(f"INSERT INTO entries ({', '.join(_COLUMNS)}) VALUES ({marks})", row)
                if has_index:
                    text = f"SELECT number, {_TEXT} FROM entries WHERE number = ?"
                    database.execute(f"INSERT INTO words (rowid, text) {text}", [written.lastrowid])
            database.execute("COMMIT")

        self._use(write, patience)

    def newest(self, count: int | None, query: str = "") -> list[LogEntry]:
        """Return the newest entries, the newest one first.

        Args:
            count: the largest number of entries; None for all.
            query: words that the prompt, the answer or the path of a file contains, in any case; empty for all entries.
        """
        limit = -1 if count is None else count

        def read(database: "sqlite3.Connection") -> list[LogEntry]:
            return [_entry(row) for row in database.execute(*_search(database, query.split(), limit))]

        return self._use(read) if self.file.exists() else []

    def find(self, number: int | None) -> LogEntry | None:
        """Return the entry with a number, or None; without a number the newest one."""
        chosen = ("WHERE number = ?", [number]) if number is not None else ("ORDER BY number DESC LIMIT 1", [])

        def read(database: "sqlite3.Connection") -> LogEntry | None:
            row = database.execute(f"SELECT * FROM entries {chosen[0]}", chosen[1]).fetchone()
            return None if row is None else _entry(row)

        return self._use(read) if self.file.exists() else None

    def folders(self) -> list[Path]:
        """Return the folders of the files of the newest entries, the newest one first."""

        def read(database: "sqlite3.Connection") -> list[Path]:
            rows = database.execute("SELECT paths FROM entries ORDER BY number DESC LIMIT ?", [NEWEST])
            paths = (path for row in rows for path in row["paths"].splitlines())
            return list(dict.fromkeys(Path(path).parent for path in paths))

        return self._use(read) if self.file.exists() else []

    def models(self) -> list[str]:
        """Return the names of the models of the newest entries, the newest one first."""

        def read(database: "sqlite3.Connection") -> list[str]:
            rows = database.execute("SELECT model FROM entries ORDER BY number DESC LIMIT ?", [NEWEST])
            return list(dict.fromkeys(row["model"] for row in rows))

        return self._use(read) if self.file.exists() else []

    def count(self, before: datetime | None = None) -> int:
        """Return the number of entries; with `before`, of those that began before that time."""
        condition, values = _before(before)

        def read(database: "sqlite3.Connection") -> int:
            return int(database.execute(f"SELECT count(*) FROM entries {condition}", values).fetchone()[0])

        return self._use(read) if self.file.exists() else 0

    def remove(self, numbers: Iterable[int]) -> None:
        """Remove entries by number. The files stay."""
        return self._remove("WHERE number IN (SELECT value FROM json_each(?))", [json.dumps(list(numbers))])

    def clear(self, before: datetime | None = None) -> None:
        """Remove all entries; with `before`, those that began before that time. The files stay."""
        self._remove(*_before(before))

    def _remove(self, condition: str, values: Sequence[str]) -> None:
        def write(database: "sqlite3.Connection") -> None:
            # Removed prompts are overwritten, so that they cannot be found in the file.
            database.execute("PRAGMA secure_delete = ON")
            database.execute("BEGIN IMMEDIATE")
            if _has_index(database):
                database.execute(f"DELETE FROM words WHERE rowid IN (SELECT number FROM entries {condition})", values)
            database.execute(f"DELETE FROM entries {condition}", values)
            if _has_index(database):
                database.execute("INSERT INTO words (words) VALUES ('optimize')")
            database.execute("COMMIT")
            database.execute("VACUUM")

        if self.file.exists():
            self._use(write)

    def _use(self, work: "Callable[[sqlite3.Connection], T]", patience: float = PATIENCE) -> T:
        """Run `work` with an open database. If the database turns out to be damaged, rename it and run `work` again."""
        import sqlite3

        opened: os.stat_result | None = None
        for is_last in (False, True):
            try:
                self._create()
                opened = self.file.stat()
                with _connected(self.file, patience) as database:
                    _require_own(database)
                    return work(database)
            except sqlite3.Error as error:
                if is_last or not _is_damage(error):
                    raise _explained(self.file, error) from None
                self._move_aside(opened)
            except OSError as error:
                raise _unusable(self.file, error) from None
        raise AssertionError("the loop returns or raises")

    def _create(self) -> None:
        """Create the file for this user alone, and refuse a link. A log on a read-only disk can still be read."""
        make_private_folder(self.file.parent)
        try:
            os.close(open_private(self.file))
        except OSError as error:
            if error.errno not in NOT_WRITABLE:
                raise

    def _move_aside(self, opened: os.stat_result | None) -> None:
        """Rename the damaged database, unless another process has just done so."""
        from filelock import FileLock  # needed only here

        try:
            with FileLock(self.file.with_suffix(".lock"), timeout=PATIENCE, mode=FILE_MODE):
                aside = self._rename(opened)
        except OSError as error:
            raise _unusable(self.file, error) from None
        if aside is not None:
            self._on_notice(f"the log was damaged: it is now {show_path(aside)}, and a new log begins")

    def _rename(self, opened: os.stat_result | None) -> Path | None:
        """Rename the database that was opened; return its new name, or None if it is gone."""
        if opened is None or not self.file.exists() or not os.path.samestat(opened, self.file.stat()):
            return None
        start = f"{self.file.stem}-damaged-{datetime.now():%Y-%m-%d-%H%M%S}"
        names = (
            f"{start}{end}{self.file.suffix}"
            for end in itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
        )
        aside = next(path for name in names if not (path := self.file.with_name(name)).exists())
        # The journal first: SQLite would apply it to the new database.
        with suppress(FileNotFoundError):
            self.file.with_name(f"{self.file.name}-journal").rename(aside.with_name(f"{aside.name}-journal"))
        self.file.rename(aside)
        return aside


def _unusable(file: Path, error: OSError) -> LogError:
    return LogError(
        f"the log {show_path(file)} cannot be used: {error.strerror or error}",
        "check the folder's permissions, or set SENSENOVA_DATA_DIR to another one",
    )


@contextmanager
def _connected(file: Path, patience: float) -> "Iterator[sqlite3.Connection]":
    import sqlite3

    target = str(file)
    if not os.access(file, os.W_OK) or not os.access(file.parent, os.W_OK):
        target = f"{file.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(target, timeout=patience, isolation_level=None, uri=target != str(file))) as database:
        database.row_factory = sqlite3.Row
        database.execute("PRAGMA synchronous = NORMAL")
        yield database


def _require_own(database: "sqlite3.Connection") -> None:
    """Raise LogError for a log of a newer version, and a sqlite3 error for a database that is not a log."""
    import sqlite3

    database.execute("BEGIN")  # so that no other process writes between these reads
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    database.execute("COMMIT")
    if application == APPLICATION_ID and version > VERSION:
        raise LogError("the log was written by a newer version of sensenova", "update sensenova, or use --no-log")
    if tables and application != APPLICATION_ID:
        error = sqlite3.DatabaseError("the file is a database of another program")
        error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
        raise error
    if not tables and os.access(_path_of(database), os.W_OK):
        database.execute("BEGIN IMMEDIATE")
        _create_tables(database)
        database.execute("COMMIT")


def _path_of(database: "sqlite3.Connection") -> str:
    return str(database.execute("PRAGMA database_list").fetchone()["file"])


def _create_tables(database: "sqlite3.Connection") -> None:
    import sqlite3

    (application,) = database.execute("PRAGMA application_id").fetchone()
    if application == APPLICATION_ID:
        return
    for statement in _TABLES:
        database.execute(statement)
    with suppress(sqlite3.OperationalError):  # this SQLite has no FTS5: a search reads all entries
        database.execute(_INDEX)
    database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    database.execute(f"PRAGMA user_version = {VERSION}")


def _has_index(database: "sqlite3.Connection") -> bool:
    """Return whether the index of words exists and this SQLite can use it."""
    import sqlite3

    try:
        database.execute("SELECT rowid FROM words LIMIT 1")
    except sqlite3.OperationalError as error:
        if _is_damage(error):
            raise
        return False
    return True


def _search(database: "sqlite3.Connection", terms: Sequence[str], limit: int) -> tuple[str, list[Any]]:
    """Return the SQL and its values that find the newest entries with all terms.

    The index finds terms of three characters and more. Shorter ones are compared with the text of each entry. All terms
    are, if the index lacks an entry, which a program without FTS5 has written.
    """
    if not terms:
        return "SELECT * FROM entries ORDER BY number DESC LIMIT ?", [limit]
    long = [term for term in terms if len(term) >= SHORTEST_TERM]
    conditions, values = [], list[Any]()
    if _is_index_complete(database):
        text, found = "text", "SELECT entries.* FROM words JOIN entries ON number = words.rowid"
        if long:
            conditions.append("words MATCH ?")
            values.append(" AND ".join(f'"{_quoted(term)}"' for term in long))
        terms = [term for term in terms if term not in long]
        order = "words.rowid"
    else:
        text, found, order = _TEXT, "SELECT * FROM entries", "number"
    for term in terms:
        escaped = term.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        conditions.append(f"({text}) LIKE ? ESCAPE '\\'")
        values.append(f"%{escaped}%")
    return f"{found} WHERE {' AND '.join(conditions)} ORDER BY {order} DESC LIMIT ?", [*values, limit]


def _quoted(term: str) -> str:
    return term.replace('"', '""')


def _is_index_complete(database: "sqlite3.Connection") -> bool:
    """Return whether the index has every entry. A program without FTS5 may have written some."""
    if not _has_index(database):
        return False
    (words,) = database.execute("SELECT count(*) FROM words_docsize").fetchone()  # FTS5's own table, one row an entry
    (entries,) = database.execute("SELECT count(*) FROM entries").fetchone()
    return bool(words == entries)


def _before(time: datetime | None) -> tuple[str, list[str]]:
    return ("", []) if time is None else ("WHERE time < ?", [_time_text(time)])


def _is_damage(error: "sqlite3.Error") -> bool:
    import sqlite3

    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _explained(file: Path, error: "sqlite3.Error") -> LogError:
    import sqlite3

    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LogError(f"another process has locked the log {show_path(file)}", "try again when it has finished")
    return LogError(f"the log {show_path(file)} cannot be used: {error}", "check the folder's permissions and the disk")


def _row(entry: LogEntry) -> list[Any]:
    """Return the columns of an entry. Text that is not valid Unicode is escaped, because SQLite refuses it."""
    paths = "\n".join(file.path for file in entry.files)
    details = {name: getattr(entry, name) for name in _DETAILS} | {"files": [asdict(file) for file in entry.files]}
    text = {
        "time": _time_text(entry.time),
        "paths": paths,
        "details": json.dumps(details, ensure_ascii=True),
        **{name: getattr(entry, name) for name in _COLUMNS if name not in ("time", "paths", "details")},
    }
    return [valid_unicode(value) if isinstance(value := text[name], str) else value for name in _COLUMNS]


def _entry(row: "sqlite3.Row") -> LogEntry:
    details = json.loads(row["details"])
    names = ("task", "prompt", "status", "reason", "seconds", "model", "session", "answer", "original", "number")
    return LogEntry(
        **{name: row[name] for name in names},
        time=datetime.fromisoformat(row["time"]),
        settings=details["settings"],
        loaded=details["loaded"],
        inputs=tuple(details["inputs"]),
        files=tuple(LoggedFile(**file) for file in details["files"]),
        system=details["system"],
        earlier=details["earlier"],
    )


def _time_text(time: datetime) -> str:
    """Return a time in UTC as text whose alphabetical order is that of time."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds")
