"""Finding of pictures that exist already, by the records in their files (`--skip-existing`)."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from config.errors import SenseNovaError
from config.recommended import Recommended
from config.settings import ImageSettings, LoadSettings
from config.sizes import format_size, resolve_size
from sensenova_cli.inputs.argv import PICTURE_ENDINGS
from sensenova_cli.outputs.picture_files import read_record
from sensenova_cli.outputs.picture_record import PictureRecord
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.record import expected_record
from sensenova_cli.turns.tasks import PictureTask

ANY = "auto"
"""Setting `dtype` of a model that is not loaded yet: every number format is the expected one."""


class ExistingPictures:
    """The records of the picture files in a folder.

    Args:
        folder: the folder to search.
        deep: whether to search its subfolders, too.
    """

    def __init__(self, folder: Path, *, deep: bool) -> None:
        self._formats: dict[str, set[str]] = {}
        for file in _picture_files(folder, deep=deep):
            try:
                record = read_record(file)
            except (SenseNovaError, OSError):
                continue  # a damaged file is not the picture, which is made again under another name
            if record is not None:
                self._formats.setdefault(_identity(record), set()).add(record.loaded.dtype)

    def contain(self, record: PictureRecord, *, is_remote: bool = False) -> bool:
        """Return whether a file has this record, apart from what does not change the picture: the folders of its input
        pictures, the version of the program, and a number format that the device chooses.

        Args:
            is_remote: whether a server will make the picture. Another program there records only its model.
        """
        found = self._formats.get(_identity(record), set())
        if is_remote and not found:
            found = self._formats.get(_identity(record.model_copy(update={"made_by": "server"})), set())
            return bool(found)
        return bool(found) if record.loaded.dtype == ANY else record.loaded.dtype in found


def missing_turns(
    turns: Iterable[Turn], existing: ExistingPictures, loaded: LoadSettings, recommended: Recommended
) -> list[Turn]:
    """Return turns for the pictures that do not exist yet. A turn of which some exist becomes one for each gap."""
    missing: list[Turn] = []
    for turn in turns:
        settings = ImageSettings.part_of(turn.settings)
        expected = expected_record(turn, picture_settings(turn, recommended), loaded)
        gaps: list[list[int]] = []
        for number in range(settings.num_images):
            own = expected.settings.model_copy(update={"seed": settings.seed + number})
            record = expected.model_copy(update={"settings": own})
            if existing.contain(record, is_remote=loaded.is_remote):
                continue
            if gaps and gaps[-1][-1] == number - 1:
                gaps[-1].append(number)
            else:
                gaps.append([number])
        missing += [_part(turn, gap[0], len(gap)) for gap in gaps]
    return missing


def picture_settings(turn: Turn, recommended: Recommended) -> ImageSettings:
    """Return the settings of a turn's first picture, as its record will have them."""
    assert isinstance(turn.task, PictureTask)
    settings = ImageSettings.part_of(turn.settings)
    first = turn.task.inputs[0].image.size if turn.task.inputs else None
    size = format_size(resolve_size(settings.size, recommended.trained_sizes, first))
    return settings.model_copy(update={"size": size, "num_images": 1})


def _part(turn: Turn, first: int, count: int) -> Turn:
    """Return a turn for some of a turn's pictures."""
    if count == turn.settings.num_images:
        return turn
    changed = {"seed": turn.settings.seed + first, "num_images": count}
    request = replace(turn.request, settings=turn.request.settings.model_copy(update=changed))  # type: ignore[arg-type]
    settings = turn.settings.model_copy(update=changed)
    return replace(turn, settings=settings, request=request, first_index=turn.first_index + first)


def _picture_files(folder: Path, *, deep: bool) -> Iterator[Path]:
    folders = os.walk(folder) if deep else [(folder, [], [entry.name for entry in _files_in(folder)])]
    for parent, _, names in folders:
        for name in names:
            if Path(name).suffix.lower() in PICTURE_ENDINGS:
                yield Path(parent) / name


def _files_in(folder: Path) -> Iterator["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if entry.is_file())
    except OSError:
        return  # it does not exist yet, or is refused when the writer is prepared


def _identity(record: PictureRecord) -> str:
    """Return the parts of a record that decide what the picture looks like, as text."""
    content = record.model_dump(mode="json", exclude={"think_text", "version", "made_by", "inputs"})
    del content["dtype"]
    return json.dumps([content, [each.sha256 for each in record.inputs]], sort_keys=True)
