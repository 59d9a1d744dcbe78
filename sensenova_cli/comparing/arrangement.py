"""Arrangement of existing pictures on a sheet, by the differences between their records."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from sensenova_cli.comparing.comparison import read_compared
from sensenova_cli.comparing.record_differences import differing_values, shown_value
from sensenova_cli.outputs.picture_record import PictureRecord
from sensenova_cli.render.sheet import MAX_PIXELS, MAX_TILE, Sheet, shrunk, wrapped

MOST_NAMED = 3
"""Most differing values that a caption names."""
LEAST_FILLED = 0.5
"""Least part of the cells of two axes that must have a picture."""


@dataclass(frozen=True)
class FilePicture:
    """A picture of a sheet.

    Attributes:
        name: the name of its file.
        image: RGB.
        record: how it was made; None if that is not known.
    """

    name: str
    image: Image.Image
    record: PictureRecord | None


def read_pictures(files: Sequence[str]) -> tuple[list[FilePicture], list[str]]:
    """Read pictures for a sheet, and notes about records that cannot be read. Only small copies are kept in memory.

    Raises:
        PictureError: a file is missing, damaged or not a picture.
    """
    side = math.isqrt(MAX_PIXELS // len(files))  # `draw_sheet` makes them smaller if there are many in a row
    pictures, notes = [], []
    for file in files:
        picture = read_compared(file)
        notes += [picture.problem] if picture.problem else []
        pictures.append(FilePicture(picture.name, shrunk(picture.image, min(MAX_TILE, side)), picture.record))
    unknown = [each.name for each in pictures if each.record is None]
    if unknown:
        of, label = (
            (f"{unknown[0]} has no record of how it was made", "its label is its name")
            if len(unknown) == 1
            else (f"{len(unknown)} pictures have no record of how they were made", "their labels are their names")
        )
        notes.append(f"{of}, so {label}")
    return pictures, notes


def arrange(pictures: Sequence[FilePicture]) -> Sheet:
    """Return a sheet of pictures.

    If their records differ in two values, these are the axes; if in one value, it is the caption of each picture, and
    the pictures are in its order. Otherwise the captions are the files' names and the first differing values. The title
    is the prompt, if all pictures have the same one. The caption of a picture without a record is its file's name.
    """
    records = [each.record for each in pictures if each.record is not None]
    if len(records) < len(pictures):
        return wrapped([each.image for each in pictures], _partly_known(pictures, records))
    prompts = dict.fromkeys(record.prompt for record in records)
    title = next(iter(prompts)) if len(prompts) == 1 else ""
    differing = differing_values(records)
    shown = _shown(differing, records)
    names = sorted(differing, key=lambda name: name == "seed")  # seeds go down the side
    if len(names) == 2 and (sheet := _two_axes(pictures, names, differing, shown, title)):
        return sheet
    order = list(range(len(pictures)))
    if len(names) == 1 and (values := _sorted(differing[names[0]])):
        order.sort(key=lambda index: values.index(differing[names[0]][index]))
    names.sort(key=lambda name: name == "prompt")  # a long prompt would hide what is below it
    captions = [_caption(names, shown, index, pictures[index].name) for index in order]
    return wrapped([pictures[index].image for index in order], captions, title)


def _shown(differing: dict[str, list[Any]], records: Sequence[PictureRecord]) -> dict[str, list[str]]:
    return {
        name: [shown_value(name, value, record) for value, record in zip(values, records, strict=True)]
        for name, values in differing.items()
    }


def _partly_known(pictures: Sequence[FilePicture], records: Sequence[PictureRecord]) -> list[str]:
    """Return captions: files' names, and the values in which the records that there are differ."""
    shown = _shown(differing_values(records), records) if records else {}
    names = sorted(shown, key=lambda name: name == "prompt")[:MOST_NAMED]
    numbers = iter(range(len(records)))
    captions = []
    for picture in pictures:
        number = None if picture.record is None else next(numbers)
        values = [] if number is None else [f"{name} = {shown[name][number]}" for name in names]
        captions.append("\n".join([picture.name, *values]))
    return captions


def _two_axes(
    pictures: Sequence[FilePicture],
    names: Sequence[str],
    differing: dict[str, list[Any]],
    shown: dict[str, list[str]],
    title: str,
) -> Sheet | None:
    """Return a sheet with two axes; None if two pictures had the same cell, or most cells were empty."""
    across, down = (_sorted(differing[name]) or _unique(differing[name]) for name in names)
    cells = {
        (across.index(column), down.index(row)): index
        for index, (column, row) in enumerate(zip(differing[names[0]], differing[names[1]], strict=True))
    }
    if len(cells) < len(pictures) or len(pictures) < LEAST_FILLED * len(across) * len(down):
        return None
    columns, labels = [""] * len(across), [""] * len(down)
    for (column, row), index in cells.items():
        columns[column] = f"{names[0]} = {shown[names[0]][index]}"
        labels[row] = f"{names[1]} = {shown[names[1]][index]}"
    rows = [
        [pictures[cells[column, row]].image if (column, row) in cells else None for column in range(len(across))]
        for row in range(len(down))
    ]
    return Sheet(rows, title, columns, labels)


def _caption(names: Sequence[str], shown: dict[str, list[str]], index: int, file: str) -> str:
    if list(names) == ["prompt"]:
        return shown["prompt"][index]
    values = [f"{name} = {shown[name][index]}" for name in names[:MOST_NAMED]]
    return values[0] if len(names) == 1 else "\n".join([file, *values])


def _sorted(values: Sequence[Any]) -> list[Any]:
    """Return the numbers in a list in order, each once; an empty list if a value is not a number."""
    if not all(isinstance(value, int | float) for value in values):
        return []
    return sorted(set(values))


def _unique(values: Sequence[Any]) -> list[Any]:
    """Return the values of a list, each once. They need not be hashable."""
    unique: list[Any] = []
    for value in values:
        if value not in unique:
            unique.append(value)
    return unique
