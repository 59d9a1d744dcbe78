"""Input pictures. Each is read once, and identified by path and checksum; its record has the seed that made it."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from config.errors import SenseNovaError
from model import PictureError, read_picture
from sensenova_cli.outputs.picture_files import read_record
from sensenova_cli.outputs.picture_record import InputFile, PictureRecord, checksum
from sensenova_cli.system.clipboard import read_clipboard_picture
from sensenova_cli.system.plain_files import read_plain_file
from sensenova_cli.system.streams import CLIPBOARD, MAX_INPUT_BYTES, STDIN, read_stdin


@dataclass(frozen=True)
class InputImage:
    """One input picture.

    Attributes:
        image: RGB.
        source: path and checksum of its file.
        name: its name in messages: the path as the user wrote it, `standard input` or `the clipboard`.
        seed: the seed in its record; None without a record.
        problem: why its record cannot be read; empty if it can be read or does not exist.
    """

    image: Image.Image
    source: InputFile
    name: str
    seed: int | None = None
    problem: str = ""


def read_inputs(names: Sequence[str]) -> tuple[InputImage, ...]:
    """Read pictures by file name; `-` stands for standard input, and `clipboard` for the clipboard.

    Raises:
        PictureError: a picture cannot be read.
        UsageError: standard input is closed, or there is no picture in the clipboard.
    """
    return tuple(_read(name, read_content(name)) for name in names)


def read_content(name: str) -> bytes:
    """Return the bytes of a picture file; `-` and `clipboard` as for `read_inputs`, also errors."""
    if name == STDIN:
        return read_stdin("give the name of a picture file")
    if name == CLIPBOARD:
        return read_clipboard_picture()
    if not name:
        raise PictureError("the name of an input picture is empty", "give the name of a picture file")
    try:
        with Path(name).expanduser().open("rb") as file:
            return file.read(MAX_INPUT_BYTES + 1)  # a longer file is refused when it is decoded
    except (OSError, ValueError, RuntimeError):  # RuntimeError: ~nobody
        read_picture(name)  # raises an error that explains the problem
        raise


def recorded_inputs(record: PictureRecord, made: Path, *, trusted: bool = False) -> tuple[InputImage, ...]:
    """Read the pictures that `made` was made from. They are searched beside `made`.

    Args:
        trusted: also open the recorded paths. A stranger's record could name any file of the user.

    Raises:
        PictureError: one of them is missing, or its content has changed. Unless `trusted`, the message does not depend
            on files outside the folder of `made`.
    """
    verb = "edited" if record.task == "edit" else "made"
    return tuple(_read_recorded(source, made, verb, trusted) for source in record.inputs)


def shown_name(name: str) -> str:
    """Return the name of an input picture for messages."""
    return {STDIN: "standard input", CLIPBOARD: "the clipboard"}.get(name, name)


def free_seed(seed: int, count: int, taken: Collection[int]) -> int:
    """Return the first seed s ≥ `seed` for which none of s, s + 1, …, s + `count` - 1 is in `taken`."""
    while clashing := [other for other in taken if seed <= other < seed + count]:
        seed = max(clashing) + 1
    return seed


def _read(name: str, content: bytes) -> InputImage:
    shown = shown_name(name)
    image = read_picture(content, shown)
    source = InputFile.of(name, content)
    try:
        record = read_record(content, shown)
    except SenseNovaError as error:
        return InputImage(image, source, shown, problem=error.what)
    return InputImage(image, source, shown, record.settings.seed if record else None)


def _read_recorded(source: InputFile, made: Path, verb: str, trusted: bool) -> InputImage:
    replacement = "give the pictures with `images=FILE`"
    if source.path in (STDIN, CLIPBOARD):
        raise PictureError(f"{made} was {verb} from {shown_name(source.path)}, which cannot be read again", replacement)
    recorded = Path(source.path)
    # People move whole folders and send them to others, so the folder of `made` comes first.
    folder = made.expanduser().absolute().parent
    is_here = recorded.parent in (folder, folder.resolve())
    beside = recorded if is_here else folder / recorded.name
    content = read_plain_file(beside, MAX_INPUT_BYTES + 1) if recorded.name else None
    if content is not None and checksum(content) == source.sha256:
        return _read(str(beside), content)
    other = f", and {beside} is another picture" if content is not None and not is_here else ""
    if not trusted and not is_here:
        raise PictureError(
            f"{made} was {verb} from {recorded}, which is not in the folder of {made}{other}",
            f"{replacement}; or open the recorded files: --trust-record",
        )
    # os.path: the record may contain an impossible file name, for which pathlib raises an error.
    if not os.path.isfile(recorded):  # noqa: PTH113
        what = f"{recorded}, from which {made} was {verb}, does not exist{other}"
        raise PictureError(what, f"restore it, or {replacement}")
    if trusted:
        content = read_content(str(recorded))
        if checksum(content) == source.sha256:
            return _read(str(recorded), content)
    raise PictureError(f"{recorded} has changed since {made} was {verb} from it", f"restore it, or {replacement}")
