"""Tables of the log's database: their creation, and their update if an older version has written them."""

from contextlib import suppress
from typing import TYPE_CHECKING

from sensenova_cli.errors import LogError
from sensenova_cli.log.rows import COLUMNS

if TYPE_CHECKING:
    import sqlite3

APPLICATION_ID = 0x53554C47
"""Number in the database's header, by which a database of another program is recognized."""
VERSION = 2
"""Version of the tables. A new column raises it, and needs a line in `ADDED_COLUMNS`."""
ADDED_COLUMNS = {"original": "TEXT NOT NULL DEFAULT ''"}
"""Columns that version 1 may lack, with their types. An older log gets them when it is opened."""

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


def require_log(database: "sqlite3.Connection", is_writable: bool) -> None:
    """Create the tables of an empty database, and bring those of an older version up to date.

    Args:
        is_writable: False for a database that was opened to be read only.

    Raises:
        LogError: the log is from a newer version, or from an older one and cannot be written.
        sqlite3.Error: the database is not a log.
    """
    database.execute("BEGIN")  # so that no other process writes between these reads
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    missing = _missing_columns(database)
    database.execute("COMMIT")
    if application == APPLICATION_ID and version > VERSION:
        raise LogError("the log was written by a newer version of sensenova", "update sensenova, or use --no-log")
    if tables and application != APPLICATION_ID:
        raise _not_a_log()
    if not tables and is_writable:
        database.execute("BEGIN IMMEDIATE")
        _create_tables(database)
        database.execute("COMMIT")
    elif tables and (version < VERSION or missing):
        _update_tables(database, is_writable)


def _not_a_log() -> "sqlite3.Error":
    import sqlite3

    error = sqlite3.DatabaseError("the file is not a log")
    error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
    return error


def _missing_columns(database: "sqlite3.Connection") -> list[str]:
    found = {row["name"] for row in database.execute("PRAGMA table_info(entries)")}
    return [name for name in ("number", *COLUMNS) if name not in found]


def _update_tables(database: "sqlite3.Connection", is_writable: bool) -> None:
    """Add the columns that newer versions have.

    Raises:
        LogError: the log cannot be written.
        sqlite3.Error: the log lacks a column that every version has, so it is damaged.
    """
    if not is_writable:
        raise LogError(
            "the log was written by an older version of sensenova, and it cannot be updated because it is read-only",
            "make it writable, or set SENSENOVA_DATA_DIR to another folder",
        )
    database.execute("BEGIN IMMEDIATE")
    for name in _missing_columns(database):  # again: another process may have added them before this one had the lock
        if name not in ADDED_COLUMNS:
            database.execute("ROLLBACK")
            raise _not_a_log()
        database.execute(f"ALTER TABLE entries ADD COLUMN {name} {ADDED_COLUMNS[name]}")
    database.execute(f"PRAGMA user_version = {VERSION}")
    database.execute("COMMIT")


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
