"""Input pictures: read once, remembered by path and checksum, with the seed they were made with."""

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from config.errors import SenseNovaError
from model.errors import PictureError
from model.pictures import read_picture
from sensenova_cli.errors import UsageError
from sensenova_cli.metadata import InputPicture, PictureRecord, read_record
from sensenova_cli.prompts import STDIN


@dataclass(frozen=True)
class Input:
    """One input picture.

    Attributes:
        image: RGB.
        source: its path as typed, and its checksum.
        seed: the seed it was made with, if it says so itself.
        problem: why its own record cannot be read; empty where it can, or where there is none.
    """

    image: Image.Image
    source: InputPicture
    seed: int | None = None
    problem: str = ""


def read_inputs(names: Sequence[str]) -> tuple[Input, ...]:
    """Read pictures by file name, `-` from standard input.

    Raises:
        PictureError: one of them cannot be read.
        UsageError: standard input is closed.
    """
    return tuple(_read_stdin() if name == STDIN else _read(name, _content(name)) for name in names)


def recorded_inputs(record: PictureRecord, made: Path) -> tuple[Input, ...]:
    """The pictures that `made` was edited from, looked for from the current folder, then from `made`'s.

    Raises:
        PictureError: one of them is missing, or is not the same file any more.
    """
    return tuple(_read_recorded(source, made) for source in record.inputs)


def free_seed(seed: int, count: int, taken: Collection[int]) -> int:
    """The first seed from `seed` on with which none of seed, …, seed + count - 1 is taken."""
    while clashing := [other for other in taken if seed <= other < seed + count]:
        seed = max(clashing) + 1
    return seed


def _read_stdin() -> Input:
    if sys.stdin is None:
        raise UsageError("standard input is closed", "name a picture file")
    return _read(STDIN, sys.stdin.buffer.read())


def _read(name: str, content: bytes) -> Input:
    called = "standard input" if name == STDIN else name
    image = read_picture(content, called)
    source = InputPicture.of(name, content)
    try:
        record = read_record(content, called)
    except SenseNovaError as error:
        return Input(image, source, problem=error.what)
    return Input(image, source, record.settings.seed if record else None)


def _content(name: str) -> bytes:
    path = Path(name).expanduser()
    try:
        return path.read_bytes()
    except (OSError, ValueError):
        read_picture(name)  # says what is the matter
        raise


def _read_recorded(source: InputPicture, made: Path) -> Input:
    again = "give the pictures with --image"
    if source.path == STDIN:
        raise PictureError(f"{made} was edited from standard input, which is gone", again)
    path = Path(source.path).expanduser()
    found = next((place for place in (path, made.parent / path) if place.is_file()), None)
    if found is None:
        raise PictureError(f"{source.path}, from which {made} was edited, is not there", f"bring it back, or {again}")
    read = _read(source.path, _content(str(found)))
    if read.source.sha256 != source.sha256:
        raise PictureError(f"{found} has changed since {made} was edited from it", f"bring it back, or {again}")
    return read
