"""The database of the log: SQLite, in a file that only the user can read.

Several processes write it at once. SQLite's own lock orders them, and each waits for a limited time.
"""

import errno
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from config.paths import show_path
from sensenova_cli.errors import LogError, SessionError, UsageError
from sensenova_cli.log.entries import LogEntry
from sensenova_cli.log.rows import COLUMNS, DamagedEntryError, entry_of, row_of, time_text
from sensenova_cli.log.tables import require_log
from sensenova_cli.system.data_folder import data_folder
from sensenova_cli.system.private_files import FILE_MODE, make_private_folder, open_private
from sensenova_cli.system.unicode import valid_unicode

if TYPE_CHECKING:
    import sqlite3

# Functions import sqlite3: a one-shot needs it only after its results are written.

LOG_FOLDER = "log"
"""Folder of the log, beside that of the sessions."""
LOG_FILE = "log.sqlite"
PATIENCE = 1.0
"""Seconds to wait for other processes that write the log."""
ATTEMPTS = 3
"""Number of times to open the database if it is damaged, or if another process has moved it aside."""
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of opening a file that may still be readable."""
NEWEST = 1000
"""Number of the newest entries that `folders` and `models` read."""
MOST_NAMED = 10
"""Most numbers of damaged entries in a notice."""
MAX_NUMBER = 2**63 - 1
"""Largest number that SQLite stores."""
MAX_TERMS = 100
"""Most words of a search: SQLite limits the length of a condition."""
SHORTEST_TERM = 3
"""Characters of the shortest word that the index finds: it contains all runs of three characters."""

_TEXT = "prompt || char(10) || answer || char(10) || original || char(10) || paths"

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
        rows = [row_of(entry) for entry in entries]

        def write(database: "sqlite3.Connection") -> None:
            marks = ", ".join("?" * len(COLUMNS))
            database.execute("BEGIN IMMEDIATE")
            has_index = _has_index(database)
            for row in rows:
                written = database.execute(f"INSERT INTO entries ({', '.join(COLUMNS)}) VALUES ({marks})", row)
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

        Raises:
            UsageError: there are too many words.
        """
        limit = -1 if count is None else min(count, MAX_NUMBER)
        terms = list(dict.fromkeys(valid_unicode(query).split()))
        if len(terms) > MAX_TERMS:
            raise UsageError(
                f"the search has {len(terms):,} words; at most {MAX_TERMS} are possible", "give fewer words"
            )

        def read(database: "sqlite3.Connection") -> "list[sqlite3.Row]":
            return database.execute(*_search(database, terms, limit)).fetchall()

        entries, damaged = [], []
        for row in self._use(read) if self.file.exists() else []:
            try:
                entries.append(entry_of(row))
            except DamagedEntryError:
                damaged.append(row["number"])
        if damaged:
            numbers = " ".join(map(str, damaged[:MOST_NAMED])) + (" …" if len(damaged) > MOST_NAMED else "")
            self._on_notice(
                f"not listed, because they cannot be read: entries {numbers}; `sensenova log rm` removes them"
            )
        return entries

    def find(self, number: int | None) -> LogEntry | None:
        """Return the entry with a number, or None; without a number the newest one.

        Raises:
            LogError: also if the entry is damaged.
        """
        chosen = ("WHERE number = ?", [number]) if number is not None else ("ORDER BY number DESC LIMIT 1", [])

        def read(database: "sqlite3.Connection") -> "sqlite3.Row | None":
            row: sqlite3.Row | None = database.execute(f"SELECT * FROM entries {chosen[0]}", chosen[1]).fetchone()
            return row

        is_possible = number is None or number <= MAX_NUMBER
        row = self._use(read) if is_possible and self.file.exists() else None
        if row is None:
            return None
        try:
            return entry_of(row)
        except DamagedEntryError:
            broken = row["number"]
            hint = f"to remove it: sensenova log rm {broken}"
            raise LogError(f"entry {broken} of the log cannot be read", hint) from None

    def contains(self, number: int) -> bool:
        """Return whether the log has an entry with a number, damaged or not."""

        def read(database: "sqlite3.Connection") -> bool:
            return database.execute("SELECT 1 FROM entries WHERE number = ?", [number]).fetchone() is not None

        return self._use(read) if abs(number) <= MAX_NUMBER and self.file.exists() else False

    def folders(self) -> list[Path]:
        """Return the folders of the files of the newest entries, the newest one first."""

        def read(database: "sqlite3.Connection") -> list[Path]:
            rows = database.execute("SELECT paths FROM entries ORDER BY number DESC LIMIT ?", [NEWEST])
            paths = (path for row in rows if isinstance(row["paths"], str) for path in row["paths"].splitlines())
            return list(dict.fromkeys(Path(path).parent for path in paths))

        return self._use(read) if self.file.exists() else []

    def models(self) -> list[str]:
        """Return the names of the models of the newest entries, the newest one first."""

        def read(database: "sqlite3.Connection") -> list[str]:
            rows = database.execute("SELECT model FROM entries ORDER BY number DESC LIMIT ?", [NEWEST])
            return list(dict.fromkeys(row["model"] for row in rows if isinstance(row["model"], str)))

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
        """Run `work` with an open database. If the database turns out to be damaged, rename it and run `work` again.

        `work` also runs again if another process has renamed the database meanwhile: SQLite then reports other errors.
        """
        import sqlite3

        opened: os.stat_result | None = None
        for left in reversed(range(ATTEMPTS)):
            try:
                self._create()
                opened = self.file.stat()
                is_writable = os.access(self.file, os.W_OK) and os.access(self.file.parent, os.W_OK)
                with _connected(self.file, patience, is_writable) as database:
                    require_log(database, is_writable)
                    return work(database)
            except sqlite3.Error as error:
                is_damaged = _is_damage(error)
                if not left or not (is_damaged or self._is_replaced(opened)):
                    raise _explained(self.file, error) from None
                if is_damaged:
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

    def _is_replaced(self, opened: os.stat_result | None) -> bool:
        """Return whether the file that was opened has another name now."""
        try:
            return opened is None or not os.path.samestat(opened, self.file.stat())
        except OSError:
            return True

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
def _connected(file: Path, patience: float, is_writable: bool) -> "Iterator[sqlite3.Connection]":
    import sqlite3

    # Neither mode creates the file: SQLite would make it readable for other users.
    target = f"{file.absolute().as_uri()}?mode={'rw' if is_writable else 'ro'}"
    with closing(sqlite3.connect(target, timeout=patience, isolation_level=None, uri=True)) as database:
        database.row_factory = sqlite3.Row
        database.text_factory = _text  # the default raises an error for text that is not UTF-8
        database.execute("PRAGMA synchronous = NORMAL")
        yield database


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")


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
    return ("", []) if time is None else ("WHERE time < ?", [time_text(time)])


def _is_damage(error: "sqlite3.Error") -> bool:
    import sqlite3

    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _explained(file: Path, error: "sqlite3.Error") -> LogError:
    import sqlite3

    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LogError(f"another process has locked the log {show_path(file)}", "try again when it has finished")
    return LogError(f"the log {show_path(file)} cannot be used: {error}", "check the folder's permissions and the disk")
