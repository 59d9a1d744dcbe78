"""Finding of pictures that exist already, by the records in their files (`--skip-existing`)."""

import itertools
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from config.errors import SenseNovaError
from config.recommended import Recommended
from config.settings import ImageSettings, LoadSettings
from config.sizes import Size, format_size, resolve_size
from sensenova_cli.outputs.picture_files import FORMATS, read_record
from sensenova_cli.outputs.picture_names import PicturePlace
from sensenova_cli.outputs.picture_record import PictureRecord
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.record import expected_record
from sensenova_cli.turns.tasks import PictureTask

PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
JPEG_END = b"\xff\xd9"
ANY = "auto"
"""Setting `dtype` of a model that is not loaded yet: every number format is the expected one."""


class ExistingPictures:
    """The records of the picture files in a folder.

    The pictures are not decoded, because a folder may have thousands. They are written in one piece, and a file that
    was cut off later is noticed by its end.

    Args:
        place: the folder to search, and the format of its pictures.
    """

    def __init__(self, place: PicturePlace) -> None:
        self._place = place
        self._files: dict[str, dict[str, Path]] = {}  # by what decides the picture, and by number format
        self._read: set[Path] = set()
        self.read_new()

    def read_new(self) -> None:
        """Read the files that have been written since the last time."""
        for file in _picture_files(self._place):
            if file in self._read:
                continue
            self._read.add(file)
            try:
                record = read_record(file, decode=False) if _is_complete(file) else None
            except (SenseNovaError, OSError):
                continue  # a damaged file is not the picture, which is made again under another name
            if record is not None:
                self._files.setdefault(picture_identity(record), {})[record.loaded.dtype] = file

    def find(self, record: PictureRecord, *, is_remote: bool = False) -> Path | None:
        """Return the file that has this record, apart from what does not change the picture: the folders of its input
        pictures, the version of the program, and a number format that the device chooses.

        Args:
            is_remote: whether a server will make the picture. Another program there records only its model.
        """
        found = self._files.get(picture_identity(record), {})
        if is_remote and not found:
            found = self._files.get(picture_identity(record.model_copy(update={"made_by": "server"})), {})
            return next(iter(found.values()), None)
        return next(iter(found.values()), None) if record.loaded.dtype == ANY else found.get(record.loaded.dtype)


@dataclass(frozen=True)
class Missing:
    """The pictures of a run that do not exist yet.

    Attributes:
        turns: those that make them. A turn of which some pictures exist becomes one for each gap.
        identities: `picture_identity` of each of them.
        existing: the files of the other pictures, by their numbers.
    """

    turns: list[Turn]
    identities: set[str]
    existing: dict[int, Path]


def find_missing(
    turns: Iterable[Turn], existing: ExistingPictures, loaded: LoadSettings, recommended: Recommended
) -> Missing:
    """Return the pictures of the turns that do not exist yet."""
    missing = Missing([], set(), {})
    for turn in turns:
        settings = ImageSettings.part_of(turn.settings)
        expected = expected_record(turn, picture_settings(turn, recommended), loaded)
        gaps: list[list[int]] = []
        for number in range(settings.num_images):
            own = expected.settings.model_copy(update={"seed": settings.seed + number})
            record = expected.model_copy(update={"settings": own})
            if (file := existing.find(record, is_remote=loaded.is_remote)) is not None:
                missing.existing[turn.first_index + number] = file
                continue
            missing.identities.add(picture_identity(record))
            if gaps and gaps[-1][-1] == number - 1:
                gaps[-1].append(number)
            else:
                gaps.append([number])
        missing.turns.extend(_part(turn, gap[0], len(gap)) for gap in gaps)
    return missing


def picture_settings(turn: Turn, recommended: Recommended) -> ImageSettings:
    """Return the settings of a turn's first picture, as its record will have them."""
    size = format_size(picture_size(turn, recommended))
    return ImageSettings.part_of(turn.settings).model_copy(update={"size": size, "num_images": 1})


def picture_size(turn: Turn, recommended: Recommended) -> Size:
    """Return the size of a turn's pictures in pixels, as the engine will resolve it."""
    assert isinstance(turn.task, PictureTask)
    first = turn.task.inputs[0].image.size if turn.task.inputs else None
    return resolve_size(turn.settings.size, recommended.trained_sizes, first)


def _part(turn: Turn, first: int, count: int) -> Turn:
    """Return a turn for some of a turn's pictures."""
    if count == turn.settings.num_images:
        return turn
    changed = {"seed": turn.settings.seed + first, "num_images": count}
    request = replace(turn.request, settings=turn.request.settings.model_copy(update=changed))  # type: ignore[arg-type]
    settings = turn.settings.model_copy(update=changed)
    return replace(turn, settings=settings, request=request, first_index=turn.first_index + first)


def _picture_files(place: PicturePlace) -> Iterator[Path]:
    walk = os.walk(place.folder) if place.is_deep else itertools.islice(os.walk(place.folder), 1)
    for parent, _, names in walk:
        for name in names:
            file = Path(parent) / name
            if FORMATS.get(file.suffix.lower()) == place.format and file.is_file():
                yield file


def _is_complete(file: Path) -> bool:
    """Return whether the last bytes of a PNG or JPEG file, or the length of a WebP file, are as they must be."""
    with file.open("rb") as stream:
        start = stream.read(8)
        length = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, length - len(PNG_END)))
        end = stream.read()
    if start.startswith(b"RIFF"):
        return length >= 8 + int.from_bytes(start[4:], "little")
    return end == PNG_END or end.endswith(JPEG_END)


def picture_identity(record: PictureRecord) -> str:
    """Return the parts of a record that decide what the picture looks like, as text."""
    content = record.model_dump(mode="json", exclude={"think_text", "version", "made_by", "enhanced_by", "inputs"})
    content.pop("dtype", None)  # the record of another program's picture has none
    if content.pop("original_prompt", None) is not None:
        content["prompt"] = record.original_prompt  # another reply of the model that rewrites prompts is no difference
        content["enhanced"] = True
    return json.dumps([content, [each.sha256 for each in record.inputs]], sort_keys=True)
