"""Notes about checkpoints that `sensenova verify` has passed on this machine."""

import hashlib
import json
from contextlib import suppress
from datetime import date
from pathlib import Path

from sensenova_cli.errors import SessionError
from sensenova_cli.system.atomic_files import replace_file
from sensenova_cli.system.data_folder import data_folder
from sensenova_cli.system.plain_files import read_plain_file
from sensenova_cli.system.private_files import make_private_folder

NOTES_FILE = "verified.json"
"""File in the user's data folder: folder of a checkpoint → fingerprint of its files and day."""
MAX_BYTES = 2**20
MAX_NOTES = 1000


def note_verified(folder: Path) -> None:
    """Note that a checkpoint has passed today. A note that cannot be written is left out."""
    with suppress(OSError, SessionError, RuntimeError):
        notes = {**_notes(), str(folder.resolve()): [_fingerprint(folder), date.today().isoformat()]}
        file = data_folder() / NOTES_FILE
        make_private_folder(file.parent)
        replace_file(file, json.dumps(dict([*notes.items()][-MAX_NOTES:]), indent=1).encode())


def verified_on(folder: Path) -> str | None:
    """Return the day on which a checkpoint has passed, such as 2026-07-31; None if it has not, or has changed since."""
    with suppress(OSError, SessionError, RuntimeError):
        note = _notes().get(str(folder.resolve()))
        if isinstance(note, list) and len(note) == 2 and note[0] == _fingerprint(folder):
            return str(note[1])
    return None


def _notes() -> dict[str, object]:
    content = read_plain_file(data_folder() / NOTES_FILE, MAX_BYTES)
    try:
        notes = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _fingerprint(folder: Path) -> str:
    """Return a checksum of the names, sizes and times of the files. Reading gigabytes would take too long."""
    files = sorted(path for pattern in ("*.json", "*.safetensors") for path in folder.glob(pattern))
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
