"""Sheets of the pictures of a run: a labelled grid, and the inputs of edits beside their results."""

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path

from PIL import Image

from config.settings import OutputSettings, PreviewChoice
from model import read_picture
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.axes import Axis, Grid
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.outputs.picture_names import PictureForm
from sensenova_cli.render.console import stderr_console
from sensenova_cli.render.json import print_json
from sensenova_cli.render.preview import Preview
from sensenova_cli.render.sheet import Sheet, draw_sheet, shrunk, tile_side, wrapped
from sensenova_cli.system.unicode import for_terminal
from sensenova_cli.turns.sheet_files import Note, SheetFile
from sensenova_cli.turns.tasks import PictureTask

MAX_EDITS = 100
"""Most rows of a sheet with edits: with more, the pictures would be too small to see."""
GRID_TILE = 512
PAIR_TILE = 1024
"""Longest side in pixels of a picture on a grid, and beside its input."""


class Report(Enum):
    """How the file of a sheet is reported on stdout."""

    PATH = "path"
    JSON = "json"
    EVENT = "event"

    @classmethod
    def of(cls, flags: Flags) -> "Report":
        """Return the way that the user asks for."""
        return cls.EVENT if flags.events else cls.JSON if flags.json else cls.PATH

    def print(self, path: Path, facts: Mapping[str, object]) -> None:
        """Print the path of a sheet, or a JSON line with more facts."""
        if self is Report.PATH:
            print(for_terminal(path), flush=True)
        else:
            print_json({**({"event": "sheet"} if self is Report.EVENT else {}), **facts})


class RunSheet:
    """A sheet of all pictures of a run. It is written after the last picture, so a run that ends early writes none.

    Args:
        path: name of the sheet's file.
        columns, rows: number of pictures of the sheet in both directions.
        longest: longest side in pixels of a picture on the sheet.

    Attributes:
        path: the name of its file.
        is_result: whether the terminal and the desktop show the sheet instead of the pictures.
    """

    is_result = False

    def __init__(self, path: str, *, columns: int, rows: int, longest: int, form: PictureForm, force: bool) -> None:
        self.path = path
        self._form = form
        self._force = force
        self._longest = longest
        self._side = tile_side(columns, rows, longest)
        self._images: dict[int, Image.Image] = {}
        self._files: dict[int, Path] = {}

    def prepare(self, note: Note, *, writes: bool) -> None:
        """Check the file's name, and if the sheet will be written, its folder; arguments and errors as for
        `SheetFile.prepare`."""
        self._file = SheetFile.prepare(self.path, note, force=self._force, form=self._form, writes=writes)

    def add(self, number: int, image: Image.Image, path: Path | None) -> None:
        """Take a picture of the run and its file. Only a small copy is kept in memory.

        Args:
            number: of the picture in the run, from 0.
        """
        self._images[number] = shrunk(image, self._side)
        if path is not None:
            self._files[number] = path

    def finish(self, counts: Sequence[int], existing: Mapping[int, Path]) -> Path:
        """Write the sheet, report its file, and return it.

        Args:
            counts: number of pictures of each item of the run.
            existing: the files of the pictures that existed before the run, by their numbers.

        Raises:
            SenseNovaError: as for `SheetFile.write`, or an existing picture cannot be read any more.
        """
        for number, path in existing.items():
            self.add(number, read_picture(path), path)
        sheet = self._sheet(counts)
        written, image = self._file.write(sheet, self._longest)
        self._show(sheet, image, written)
        return written

    def _sheet(self, counts: Sequence[int]) -> Sheet:
        """Return the content of the sheet."""
        raise NotImplementedError

    def _show(self, sheet: Sheet, image: Image.Image, written: Path) -> None:
        """Report the file on stdout."""
        raise NotImplementedError


class GridSheet(RunSheet):
    """The sheet of `sensenova grid`.

    Args:
        report: how the file is reported.
        preview: how the terminal shows the sheet.
    """

    is_result = True

    def __init__(
        self, path: str, grid: Grid, *, form: PictureForm, force: bool, report: Report, preview: PreviewChoice
    ) -> None:
        columns, rows = len(grid.columns.values), len(grid.rows)
        super().__init__(path, columns=columns, rows=rows, longest=GRID_TILE, form=form, force=force)
        self._grid = grid
        self._report = report
        self._preview = preview

    def _sheet(self, counts: Sequence[int]) -> Sheet:
        grid = self._grid
        images = [self._images.get(number) for number in range(len(grid.cells))]
        if grid.down is None:
            return wrapped(images, grid.columns.labels, grid.title)
        across = len(grid.columns.values)
        rows = [images[start : start + across] for start in range(0, len(images), across)]
        return Sheet(rows, grid.title, grid.columns.labels, grid.down.labels)

    def _show(self, sheet: Sheet, image: Image.Image, written: Path) -> None:
        self._report.print(written, self._facts(written))
        show_sheet(self._preview, sheet, image, self._grid.columns, self._grid.down)

    def _facts(self, written: Path) -> dict[str, object]:
        grid = self._grid
        across = len(grid.columns.values)
        files = [self._files.get(number) for number in range(len(grid.cells))]
        names = [None if file is None else str(file) for file in files]
        return {
            "task": "grid",
            "path": str(written),
            "prompt": grid.title,
            "columns": _axis_json(grid.columns),
            "rows": None if grid.down is None else _axis_json(grid.down),
            "pictures": [names[start : start + across] for start in range(0, len(names), across)],
        }


class BeforeAfterSheet(RunSheet):
    """The sheet of `--before-after`: a row for each prompt, with the pictures that it edited and the results.

    Args:
        report: how the file is reported.
    """

    def __init__(
        self, path: str, tasks: Sequence[PictureTask], *, form: PictureForm, force: bool, report: Report
    ) -> None:
        self._tasks = tasks
        self._report = report
        self._before = max(len(task.inputs) for task in tasks)
        super().__init__(path, columns=self._before + 1, rows=len(tasks), longest=PAIR_TILE, form=form, force=force)

    @classmethod
    def of(cls, flags: Flags, output: OutputSettings, tasks: Sequence[PictureTask]) -> "BeforeAfterSheet":
        """Return the sheet that `--before-after` asks for.

        Raises:
            UsageError: the pictures would have the same file, there are no pictures to show before, or too many edits.
        """
        assert flags.before_after is not None
        if len(tasks) > MAX_EDITS:
            raise UsageError(
                f"a sheet of {len(tasks):,} edits is too large",
                f"make at most {MAX_EDITS}, or leave --before-after out",
            )
        if output.output is not None and Path(output.output) == Path(flags.before_after):
            raise UsageError(f"-o and --before-after both name {flags.before_after}", "give the sheet another name")
        if not any(task.inputs for task in tasks):
            raise UsageError("--before-after needs an input picture", "name one: sensenova edit FILE …")
        return cls(
            flags.before_after,
            tasks,
            form=PictureForm.of(output, flags.settings),
            force=flags.force,
            report=Report.of(flags),
        )

    def _sheet(self, counts: Sequence[int]) -> Sheet:
        rows: list[list[Image.Image | None]] = []
        first, after = 0, max(counts)
        for task, count in zip(self._tasks, counts, strict=True):
            inputs = [shrunk(each.image, self._side) for each in task.inputs]
            results = [self._images.get(number) for number in range(first, first + count)]
            rows.append([*inputs, *[None] * (self._before - len(inputs)), *results, *[None] * (after - count)])
            first += count
        prompts = [" ".join(task.prompt.text.split()) for task in self._tasks]
        columns = [*_numbered("before", self._before), *_numbered("after", after)]
        return Sheet(rows, prompts[0], columns) if len(rows) == 1 else Sheet(rows, "", columns, prompts)

    def _show(self, sheet: Sheet, image: Image.Image, written: Path) -> None:
        files = [str(self._files[number]) for number in sorted(self._files)]
        self._report.print(written, {"task": "before-after", "path": str(written), "pictures": files})


def show_sheet(
    setting: PreviewChoice, sheet: Sheet, image: Image.Image, columns: Axis | None = None, down: Axis | None = None
) -> None:
    """Show a sheet in the terminal. Half blocks are too few for text, so the axes are printed below the pictures.

    Args:
        image: the sheet as it was drawn.
    """
    console = stderr_console()
    preview = Preview.choose(console, setting)
    if preview.method != "blocks":
        preview.show(image)
        return
    without_text = Sheet(sheet.rows, captions=[[""] * len(row) for row in sheet.rows])
    preview.show(draw_sheet(without_text))
    for name, axis in (("columns: " if down else "", columns), ("rows: ", down)):
        if axis is not None:
            console.print(f"{name}{axis.name} = {', '.join(axis.values)}", style="dim", markup=False)


def _axis_json(axis: Axis) -> dict[str, object]:
    return {"name": axis.name, "values": list(axis.values)}


def _numbered(word: str, count: int) -> list[str]:
    return [word] if count == 1 else [f"{word} {number}" for number in range(1, count + 1)]
