"""`conversion.json` of a converted checkpoint: what it was made of, and the weight files that are done.

A weight file counts as done if the record has its sha256. It gets its name before the record is written, so a file with
a name but without a record is made again.
"""

import json
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.declarations import LOAD
from config.json_files import read_json
from config.mentions import mention
from model.errors import RequestError

RECORD_FILE = "conversion.json"
LOCK_FILE = "conversion.lock"
UNFINISHED = ".unfinished"
"""End of the name of a folder in which a checkpoint is being made."""
LARGEST_RECORD = 2**20


@dataclass
class SourceFile:
    """A file of the source.

    Attributes:
        modified: time of its last change, in nanoseconds.
    """

    nbytes: int
    modified: int
    sha256: str


@dataclass
class Record:
    """Contents of the record.

    Attributes:
        model: name of the source: a Hub id, `demo`, or a folder's own name.
        plan: sha256 of the headers of all new weight files.
        source: the source's files by name.
        done: new weight files by name → sha256.
    """

    quantization: str
    model: str
    plan: str
    source: dict[str, SourceFile] = field(default_factory=dict)
    done: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Replace the record in a folder."""
        files: dict[str, dict[str, Any]] = {
            name: {"bytes": file.nbytes, "modified": file.modified, "sha256": file.sha256}
            for name, file in self.source.items()
        }
        content: dict[str, Any] = {
            "made_by": "sensenova convert",
            "quantization": self.quantization,
            "plan": self.plan,
            "source": {"model": self.model, "files": files},
            "files": self.done,
        }
        scratch = folder / f"{RECORD_FILE}.part"
        try:
            with scratch.open("w", encoding="utf-8") as stream:
                json.dump(content, stream, indent=1)
                stream.write("\n")
                stream.flush()
                os.fsync(stream.fileno())
            scratch.replace(folder / RECORD_FILE)
        finally:
            with suppress(OSError):
                scratch.unlink(missing_ok=True)


def read_record(folder: Path) -> Record:
    """Read the record of an unfinished conversion.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: there is none, or it is damaged.
    """
    content = read_json(folder / RECORD_FILE, LARGEST_RECORD)
    source = {
        _text(name): SourceFile(_number(file["bytes"]), _number(file["modified"]), _text(file["sha256"]))
        for name, file in content["source"]["files"].items()
    }
    done = {_text(name): _text(sha256) for name, sha256 in content["files"].items()}
    quantization, model, plan = map(_text, (content["quantization"], content["source"]["model"], content["plan"]))
    return Record(quantization, model, plan, source, done)


def converted_quantization(folder: Path) -> str | None:
    """Return the value of `quantization` that a folder's weights were converted for; None for other checkpoints."""
    try:
        name = read_record(folder).quantization
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return name if name in LOAD["quantization"].choices else None  # a stranger may have written it


def converted_checksums(folder: Path) -> dict[str, str]:
    """Return the sha256 of the weight files that a conversion wrote into a folder; none for other checkpoints."""
    try:
        return read_record(folder).done
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def unfinished_folder(folder: Path) -> Path:
    """Return the folder in which a conversion works until `folder` is complete."""
    return folder.parent / f"{folder.name}{UNFINISHED}"


def require_usable_folder(folder: Path) -> None:
    """Raise RequestError if a conversion cannot use this folder: it exists, or its unfinished work is not ours."""
    if (own := converted_quantization(folder)) is not None:
        raise RequestError(
            f"{folder} is a finished conversion to {own}",
            f"use it: {mention('model', folder)} with {mention('quantization', own)}",
        )
    if os.path.lexists(folder):
        raise RequestError(f"{folder} exists already", "name a folder that does not exist yet")
    work = unfinished_folder(folder)
    if os.path.lexists(work) and not _is_ours(work):
        raise RequestError(
            f"{work} exists, and is not the unfinished work of a conversion", "move it away, or name another folder"
        )


def _is_ours(work: Path) -> bool:
    if work.is_symlink() or not work.is_dir():
        return False
    try:
        entries = list(work.iterdir())
        if not all(stat.S_ISREG(entry.lstat().st_mode) for entry in entries):  # a link could lead a write elsewhere
            return False
        read_record(work)
    except FileNotFoundError:  # ended before the first record
        return {entry.name for entry in entries} <= {LOCK_FILE, f"{RECORD_FILE}.part"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _number(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("not a whole number")
    return value
