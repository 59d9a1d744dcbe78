"""The tasks of a grid's cells, and the names of its files: `grid.png`, `grid-01-cfg-scale-2-seed-1.png`, …"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from sensenova_cli.errors import OutputError
from sensenova_cli.inputs.axes import Grid
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.pictures import InputImage
from sensenova_cli.inputs.replay import PictureKind, Replay
from sensenova_cli.outputs.picture_names import slug
from sensenova_cli.turns.one_shot import NameTemplate
from sensenova_cli.turns.tasks import PictureTask

FIRST = 1
"""Number of the first cell in file names."""


def cell_tasks(
    grid: Grid, kind: PictureKind, inputs: tuple[InputImage, ...], replay: Replay | None, flags: Flags
) -> list[PictureTask]:
    """Return one task for each cell, row by row. A settings file may ask for several pictures; a cell has one."""
    return [
        PictureTask(
            kind,
            dataclasses.replace(cell.prompt, settings={**cell.prompt.settings, "num_images": 1}),
            inputs,
            replay,
            flags.width,
            flags.height,
            name=cell.label,
        )
        for cell in grid.cells
    ]


def cell_names(path: str, tasks: Sequence[PictureTask], *, may_exist: bool) -> NameTemplate:
    """Return the names of the cells' pictures, which are beside the sheet.

    Args:
        may_exist: existing pictures are replaced, or used.

    Raises:
        OutputError: one of the files exists already.
    """
    sheet = Path(path).expanduser()
    stem = str(sheet.with_name(sheet.stem)).replace("{", "{{").replace("}", "}}")
    digits = max(2, len(str(len(tasks))))
    template = f"{stem}-{{index:0{digits}d}}-{{slug}}{sheet.suffix}"
    for number, task in enumerate(tasks, start=FIRST):
        file = Path(template.format(index=number, slug=slug(task.name)))
        if file.exists() and not may_exist:
            raise OutputError(
                f"{file} exists already",
                "use -f to replace such files, --skip-existing to use them, or another name with -o",
            )
    return NameTemplate(template, FIRST)
