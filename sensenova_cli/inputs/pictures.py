"""Input pictures: read once, remembered by path and checksum, with the seed they were made with."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from config.errors import SenseNovaError
from model import PictureError, read_picture
from sensenova_cli.outputs.png_metadata import InputFile, PictureRecord, checksum, read_record
from sensenova_cli.system.streams import STDIN, read_stdin


@dataclass(frozen=True)
class InputImage:
    """One input picture.

    Attributes:
        image: RGB.
        source: where it lies, and its checksum.
        name: what messages call it: its path as typed, or `standard input`.
        seed: the seed it was made with, if it says so itself.
        problem: why its own record cannot be read; empty where it can, or where there is none.
    """

    image: Image.Image
    source: InputFile
    name: str
    seed: int | None = None
    problem: str = ""


def read_inputs(names: Sequence[str]) -> tuple[InputImage, ...]:
    """Read pictures by file name, `-` from standard input.

    Raises:
        PictureError: one of them cannot be read.
        UsageError: standard input is closed.
    """
    return tuple(_read(name, read_content(name)) for name in names)


def read_content(name: str) -> bytes:
    """The bytes of a picture file, `-` for standard input; errors as for `read_inputs`."""
    if name == STDIN:
        return read_stdin("name a picture file")
    if not name:
        raise PictureError("the name of an input picture is empty", "name a picture file")
    try:
        return Path(name).expanduser().read_bytes()
    except (OSError, ValueError, RuntimeError):  # RuntimeError: ~nobody
        read_picture(name)  # says what is the matter
        raise


def recorded_inputs(record: PictureRecord, made: Path) -> tuple[InputImage, ...]:
    """The pictures that `made` was edited from, looked for where they lay, then beside `made`.

    Raises:
        PictureError: one of them is missing, or is not the same file any more.
    """
    return tuple(_read_recorded(source, made) for source in record.inputs)


def free_seed(seed: int, count: int, taken: Collection[int]) -> int:
    """The first seed from `seed` on with which none of seed, …, seed + count - 1 is taken."""
    while clashing := [other for other in taken if seed <= other < seed + count]:
        seed = max(clashing) + 1
    return seed


def _read(name: str, content: bytes) -> InputImage:
    called = "standard input" if name == STDIN else name
    image = read_picture(content, called)
    source = InputFile.of(name, content)
    try:
        record = read_record(content, called)
    except SenseNovaError as error:
        return InputImage(image, source, called, problem=error.what)
    return InputImage(image, source, called, record.settings.seed if record else None)


def _read_recorded(source: InputFile, made: Path) -> InputImage:
    again = "give the pictures with `images=FILE`"
    if source.path == STDIN:
        raise PictureError(f"{made} was edited from standard input, which is gone", again)
    recorded = Path(source.path).absolute()
    # Beside the picture it is looked for, too: whole folders are moved, and sent to others.
    beside = made.expanduser().absolute().parent
    places = dict.fromkeys((recorded, beside / source.path, beside / recorded.name))
    # os.path: a record may name what no file can be called, at which pathlib raises an error.
    found = [place for place in places if os.path.isfile(place)]  # noqa: PTH113
    for place in found:
        content = read_content(str(place))
        if checksum(content) == source.sha256:
            return _read(str(place), content)
    if recorded in found:
        what = f"{recorded} has changed since {made} was edited from it"
    else:
        other = f", and {found[0]} is another picture" if found else ""
        what = f"{recorded}, from which {made} was edited, is not there{other}"
    raise PictureError(what, f"bring it back, or {again}")
