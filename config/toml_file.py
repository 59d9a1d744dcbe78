"""TOML files of settings: read one, and name the line and column of each mistake."""

import json
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from config.errors import SettingsError
from config.paths import show_path as show_path  # most callers of this module show paths, too
from config.settings import SETTING_NAMES, ServeSettings
from config.validation import Notation, check_values, near_miss

SERVE_TABLE = "serve"
"""Name of the table with the settings of `sensenova serve`."""

MAX_FILE_BYTES = 2**20
"""Maximum number of bytes of a settings file."""


@dataclass(frozen=True)
class SettingsFile:
    """A profile, the user file or the project file: TOML with settings and an optional `description`.

    Attributes:
        serve: the table `[serve]`, settings of `sensenova serve`.
    """

    path: Path
    description: str
    values: dict[str, Any]
    serve: dict[str, Any]


def read_settings_file(path: Path) -> SettingsFile:
    """Read and check a TOML file.

    Raises:
        SettingsError: the file cannot be read, is not TOML, or has an unknown key, a wrong type or a value out of
            bounds. The message starts with file, line and column.
    """
    return parse_settings(read_settings_text(path), path)


def parse_settings(text: str, path: Path) -> SettingsFile:
    """Check the text of a settings file; errors as for `read_settings_file`, whose messages name `path`."""
    shown = show_path(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason, line, column = _split_decode_error(str(error), text)
        raise SettingsError(f"{shown}:{line}:{column}: {reason}", _syntax_hint(reason, text, line)) from None
    except RecursionError:
        raise SettingsError(f"{shown}: is nested too deeply", "no setting needs more than one list") from None
    except ValueError:  # Python converts numbers of up to 4,300 digits
        raise SettingsError(f"{shown}: a number has too many digits", "shorten it") from None

    def place(name: str) -> str:
        found = find_key(text, name)
        return f"{shown}:{found[0]}:{found[1]}: " if found else f"{shown}: "

    notation = Notation(place=place, key=str, equals=" = ", literal=toml_literal, text=False)
    description = values.pop("description", "")
    if not isinstance(description, str):
        literal = notation.assignment("description", description)
        raise SettingsError(f"{place('description')}{literal}: must be text", "put it in quotes")
    serve = values.pop(SERVE_TABLE, {})
    if not isinstance(serve, dict):
        literal = notation.assignment(SERVE_TABLE, serve)
        raise SettingsError(f"{place(SERVE_TABLE)}{literal}: must be a table", f"write [{SERVE_TABLE}] on its own line")
    for name, value in values.items():
        if isinstance(value, dict):
            raise SettingsError(
                f"{place(name)}{name} is a table; the only table of a settings file is [{SERVE_TABLE}]",
                f"did you mean [{SERVE_TABLE}]?"
                if near_miss(name, [SERVE_TABLE])
                else "write only lines like NAME = VALUE, without [sections] and dots",
            )
    in_table = replace(notation, place=lambda name: _place_in_table(shown, text, name))
    _refuse_misplaced(values, serve, notation, in_table)
    checked = check_values(values, notation, (*SETTING_NAMES, "description"))
    return SettingsFile(
        path, description, checked, check_values(serve, in_table, ServeSettings.model_fields, ServeSettings)
    )


def _refuse_misplaced(
    values: Mapping[str, Any], serve: Mapping[str, Any], notation: Notation, in_table: Notation
) -> None:
    """Raise SettingsError if a setting of the server is outside its table, or another setting is in it."""
    for name in values:
        if name in ServeSettings.model_fields and name not in SETTING_NAMES:
            what = f"{notation.place(name)}{name} is a setting of `sensenova serve`"
            raise SettingsError(what, f"write it below [{SERVE_TABLE}]")
    for name in serve:
        if name in SETTING_NAMES and name not in ServeSettings.model_fields:
            what = f"{in_table.place(name)}{name} is not a setting of `sensenova serve`"
            raise SettingsError(what, f"write it above [{SERVE_TABLE}]")


def toml_literal(value: Any) -> str:
    """Write the value of a setting in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_literal, value))}]"
    return str(value)


def read_settings_text(path: Path) -> str:
    """Return the text of a settings file, unchecked; errors as for `read_settings_file`."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not path.is_dir():
            # A pipe could be read only once, and a device may never end.
            raise SettingsError(f"{show_path(path)}: is not a regular file", "write the settings to a file first")
        if status.st_size > MAX_FILE_BYTES:
            raise SettingsError(f"{show_path(path)}: has more than {MAX_FILE_BYTES:,} bytes", "shorten it")
        # utf-8-sig: some Windows editors write a byte-order mark first, which TOML does not allow.
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SettingsError(f"{show_path(path)}: there is no such file", "check the path") from None
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{show_path(path)}: byte {error.start} is not UTF-8 text", "save the file as UTF-8"
        ) from None
    except OSError as error:
        raise SettingsError(f"{show_path(path)}: cannot be read: {error.strerror}", "check the file") from None


def _split_decode_error(message: str, text: str) -> tuple[str, int, int]:
    """Split a message of tomllib into reason, line and column (from 1). In Python 3.11 only the text has them."""
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.DOTALL)
    if found is None:
        return message, 1, 1
    reason = found[1][:1].lower() + found[1][1:]
    if found[2]:
        return reason, int(found[2]), int(found[3])
    lines = text.split("\n")
    while len(lines) > 1 and not lines[-1].strip():
        lines.pop()
    return reason, len(lines), len(lines[-1]) + 1


def _syntax_hint(reason: str, text: str, line: int) -> str:
    if reason.startswith("cannot overwrite"):
        return "an earlier line already sets this name: remove one of the two lines"
    found = re.fullmatch(r"""\s*([\w-]+)\s*=\s*([^\s"'\[#][^"'#]*?)\s*(?:#.*)?""", text.split("\n")[line - 1])
    if found is None or reason != "invalid value" or is_toml(found[0]):  # the mistake is on an earlier line
        return 'write one NAME = VALUE a line, text in quotes: size = "2048x2048"'
    name, value = found[1], found[2]
    if value in ("True", "False"):
        return f"write {name} = {value.lower()}"
    try:
        return f"write {name} = {float(value)}"
    except ValueError:
        return f'put text in quotes: {name} = "{value}"'


def find_key(text: str, name: str) -> tuple[int, int] | None:
    """Return line and column (from 1) of a top-level key in valid TOML text."""
    key = re.compile(rf"""\s*\[{{0,2}}\s*(["']?)({re.escape(name)})\1\s*[=.\]]""")
    lines = text.split("\n")
    for index, line in enumerate(lines):
        found = key.match(line)
        # In a multi-line string or array the lines before are not valid TOML, so this is not a key.
        if found and is_toml("\n".join(lines[:index])):
            return index + 1, found.start(2) + 1
    return None


def _place_in_table(shown: str, text: str, name: str) -> str:
    """Return the start of a message about a setting in the table `[serve]`: file, line and column."""
    header = find_key(text, SERVE_TABLE)
    if header is None:
        return f"{shown}: "
    lines = text.split("\n")
    found = find_key("\n".join(lines[header[0] :]), name)
    line, column = (header[0] + found[0], found[1]) if found else header
    return f"{shown}:{line}:{column}: "


def is_toml(text: str) -> bool:
    """Return whether a text is valid TOML."""
    try:
        tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
