"""Files of sheets: their name is checked before anything runs, and they are written whole or not at all."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from config.settings import OutputSettings
from config.validation import join_or
from sensenova_cli.errors import OutputError
from sensenova_cli.outputs.picture_files import FORMATS
from sensenova_cli.outputs.picture_names import DEFAULT_ENDINGS, PNG_FORM, PictureForm, slug
from sensenova_cli.outputs.picture_writer import PictureWriter
from sensenova_cli.render.fonts import missing_characters
from sensenova_cli.render.sheet import MAX_TILE, Sheet, draw_sheet
from sensenova_cli.system.streams import STDIN

Note = Callable[[str], None]
MOST_SHOWN = 20
"""Most characters that a note about fonts lists."""


class SheetFile:
    """A file for one sheet. `prepare` makes it."""

    def __init__(self, writer: PictureWriter, note: Note) -> None:
        self._writer = writer
        self._note = note

    @classmethod
    def prepare(
        cls, path: str, note: Note, *, force: bool, form: PictureForm = PNG_FORM, writes: bool = True
    ) -> "SheetFile":
        """Check that a sheet can be written to a picture file.

        Args:
            note: called with a sentence about a text or a size that the file cannot show.
            writes: whether the sheet will be written. Otherwise only its name is checked.

        Raises:
            OutputError: the name has fields or is standard output, or as for `PictureWriter.prepare`.
        """
        if path == STDIN:
            raise OutputError("a sheet cannot go to stdout", "name a file")
        if "{" in path or "}" in path:
            raise OutputError(f"{path} has braces, and a sheet is one file", "name it without fields, like sheet.png")
        if Path(path).suffix.lower() not in FORMATS or path.endswith("/"):
            name = Path(path).with_suffix(".png") if path.strip("./") else "sheet.png"
            raise OutputError(f"{path} does not end in {join_or(list(FORMATS))}", f"name it {name}")
        writer = PictureWriter.prepare(path, force=force, stdout_is_terminal=False, form=form, note=note, writes=writes)
        return cls(writer, note)

    def write(self, sheet: Sheet, longest: int = MAX_TILE) -> tuple[Path, Image.Image]:
        """Draw a sheet and write it; return the file and the drawn sheet. Errors as for `PictureWriter.write`.

        Args:
            longest: longest side of a picture on the sheet in pixels.
        """
        image = draw_sheet(sheet, longest)
        written = self._writer.write(image, prompt="sheet", seed=0, index=0, count=1, record=None)
        assert written is not None  # it is not stdout
        if missing := missing_characters(sheet.text):
            shown = missing if len(missing) <= MOST_SHOWN else missing[:MOST_SHOWN] + "…"
            self._note(
                f"no font here has {shown}, which the sheet shows as boxes; install a font such as Noto Sans CJK or "
                "DejaVu Sans"
            )
        return written, image


def sheet_path(output: OutputSettings, typed: str | None, title: str) -> str:
    """Return the name of a sheet's file.

    Args:
        output: the settings. A folder among them is used, but the name of a file there is for single pictures.
        typed: the output that the user typed for this sheet; None for a name made of the title.
    """
    name = f"{slug(title)}-grid{DEFAULT_ENDINGS[output.format]}" if title else f"grid{DEFAULT_ENDINGS[output.format]}"
    if typed is not None:
        is_folder = typed.endswith("/") or Path(typed).expanduser().is_dir()
        return str(Path(typed).expanduser() / name) if is_folder else typed
    if output.output is None or output.output == "-":
        return name
    configured = Path(output.output).expanduser()
    folder = configured if output.output.endswith("/") or configured.is_dir() else configured.parent
    return name if "{" in str(folder) else str(folder / name)
