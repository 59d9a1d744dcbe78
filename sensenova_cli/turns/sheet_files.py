"""Files of sheets: their name is checked before anything runs, and they are written whole or not at all."""

from pathlib import Path

from PIL import Image

from config.settings import OutputSettings
from config.validation import join_or
from sensenova_cli.errors import OutputError
from sensenova_cli.outputs.picture_files import FORMATS
from sensenova_cli.outputs.picture_names import DEFAULT_ENDINGS, PNG_FORM, PictureForm, slug
from sensenova_cli.outputs.picture_writer import PictureWriter
from sensenova_cli.render.sheet import Sheet, draw_sheet, unreadable
from sensenova_cli.system.streams import STDIN

MOST_SHOWN = 20
"""Most characters without a sign in any font that a notice lists."""


class SheetFile:
    """A file for one sheet. `prepare` makes it."""

    def __init__(self, writer: PictureWriter, path: str) -> None:
        self._writer = writer
        self.path = path
        """The file's name as it was given."""

    @classmethod
    def prepare(cls, path: str, *, force: bool, form: PictureForm = PNG_FORM, writes: bool = True) -> "SheetFile":
        """Check that a sheet can be written to a picture file.

        Args:
            writes: whether it will be written. Otherwise only its name is checked.

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
        return cls(PictureWriter.prepare(path, force=force, stdout_is_terminal=False, form=form, writes=writes), path)

    def write(self, sheet: Sheet, longest: int) -> Path:
        """Draw a sheet and write it; errors as for `PictureWriter.write`.

        Args:
            longest: longest side of a picture on the sheet in pixels.
        """
        return self.write_image(draw_sheet(sheet, longest))

    def write_image(self, image: Image.Image) -> Path:
        """Write a sheet that has been drawn; errors as for `PictureWriter.write`."""
        written = self._writer.write(image, prompt="sheet", seed=0, index=0, count=1, record=None)
        assert written is not None  # it is not stdout
        return written


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


def font_notice(sheet: Sheet) -> str:
    """Return a sentence about characters of a sheet that no font here has; empty if there are none."""
    missing = unreadable(sheet)
    if not missing:
        return ""
    return (
        f"no font here has {missing[:MOST_SHOWN]}{'…' if len(missing) > MOST_SHOWN else ''}, which the sheet shows as "
        "boxes; install a font such as Noto Sans CJK or DejaVu Sans"
    )
