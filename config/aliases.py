"""The user's aliases of models: a TOML file with one `NAME = "TARGET"` a line, beside the user file."""

import re
from pathlib import Path

from config.errors import SettingsError
from config.user_folder import has_user_folder, user_folder

ALIASES_FILE = "aliases.toml"
ALIAS = re.compile(r"[^\W_][\w.-]*")
"""Form of an alias. It has no slash, so it is neither a path nor a Hub id."""
HEADING = "# Aliases of models, written by `sensenova models alias`.\n"
MAX_BYTES = 2**20
_read: dict[Path, tuple[tuple[int, int], dict[str, str]]] = {}
"""File → its time and size, and its aliases, so that a process parses it once."""


def aliases_file() -> Path:
    """Return the path of the file, which need not exist; errors as for `user_folder`."""
    return user_folder() / ALIASES_FILE


def read_aliases() -> dict[str, str]:
    """Return alias → target, in the order of the file; empty without a file.

    Raises:
        SettingsError: the file is damaged.
    """
    if not has_user_folder():
        return {}
    file = aliases_file()
    try:
        status = file.stat()
    except OSError:
        return {}
    stamp = (status.st_mtime_ns, status.st_size)
    if file not in _read or _read[file][0] != stamp:
        _read[file] = stamp, _parse(file)
    return dict(_read[file][1])


def aliases_text(aliases: dict[str, str]) -> str:
    """Return the content of the file."""
    import json  # TOML's basic strings have the escapes of JSON

    return HEADING + "".join(f"{json.dumps(name)} = {json.dumps(target)}\n" for name, target in aliases.items())


def _parse(file: Path) -> dict[str, str]:
    import tomllib  # only users with aliases need it

    try:
        with file.open("rb") as stream:
            found = tomllib.loads(stream.read(MAX_BYTES).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{file}: {error}", "correct the file, or remove it") from None
    for name, target in found.items():
        if not isinstance(target, str) or not target.strip():
            raise SettingsError(f"{file}: the alias {name} has no name of a model", f'write {name} = "owner/name"')
    return found
