"""The present state of logged files: each is at its place, changed, moved or missing."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from sensenova_cli.log.entries import LoggedFile

State = Literal["there", "changed", "missing"]
MAX_SEARCHED = 20_000
"""Most files and folders that a search for a moved file looks at."""


def quick_state(file: LoggedFile) -> State:
    """Return whether a file is at its place with its size; its content is not read."""
    try:
        size = Path(file.path).stat().st_size
    except (OSError, ValueError):
        return "missing"
    return "there" if size == file.bytes else "changed"


def exact_state(file: LoggedFile) -> State:
    """Return whether a file is at its place with its content."""
    state = quick_state(file)
    return "changed" if state == "there" and _checksum(Path(file.path)) != file.sha256 else state


def find_moved(file: LoggedFile, folders: Iterable[Path]) -> Path | None:
    """Search a missing file by its content; return its new path, or None.

    The search looks into the old folder, the folder above it and the current folder, with the folders inside each, but
    not deeper, and into `folders`. It ends after `MAX_SEARCHED` files.
    """
    if not file.sha256:
        return None
    searched = 0
    for entry in _entries(_places(Path(file.path), folders)):
        searched += 1
        if searched > MAX_SEARCHED:
            return None
        try:
            is_candidate = entry.is_file(follow_symlinks=False) and entry.stat().st_size == file.bytes
        except OSError:
            continue
        if is_candidate and _checksum(Path(entry.path)) == file.sha256:
            return Path(entry.path)
    return None


def _places(path: Path, folders: Iterable[Path]) -> Iterator[Path]:
    """Yield the folders to search, the most likely one first."""
    yield from (path.parent, Path.cwd())
    yield from folders
    # A session that was renamed keeps its pictures in a folder of the same name, two levels down.
    yield from (each / path.parent.name for each in _inside(path.parent.parent.parent))
    for parent in (path.parent, path.parent.parent, Path.cwd()):
        yield parent
        yield from _inside(parent)


def _entries(folders: Iterable[Path]) -> Iterator[os.DirEntry[str]]:
    seen: set[Path] = set()
    for folder in folders:
        if folder not in seen:
            seen.add(folder)
            try:
                with os.scandir(folder) as entries:
                    yield from entries
            except (OSError, ValueError):  # ValueError: a path with a NUL
                continue


def _inside(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (OSError, ValueError):
        return []


def _checksum(path: Path) -> str:
    import hashlib  # a list of the log does not need it

    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
