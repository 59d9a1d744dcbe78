"""`sensenova compare`: what differs between two pictures, in their settings and in their pixels."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.options import with_options
from sensenova_cli.system.streams import STDIN


@with_options("sheet", "force", "preview", "json", "quiet", "debug", "no_color")
def compare(
    flags: Flags,
    one: Annotated[str, typer.Argument(metavar="PICTURE", help="A picture; - reads it from standard input.")],
    other: Annotated[str, typer.Argument(metavar="PICTURE", help="The picture to compare it with.")],
) -> None:
    """Compare two pictures: their settings and their pixels. No model is loaded.

    Examples
      sensenova compare a.png b.png
      sensenova compare a.png b.png -o both.png     # both, and their difference
      sensenova compare --json a.png b.png | jq .psnr

    The settings are those of the records, and only the differing ones are
    printed. PSNR and SSIM measure how alike the pixels are: PSNR is infinite
    and SSIM is 1 for equal pictures. They need pictures of the same size.
    """
    output = flags.sheet
    if one == other == STDIN:
        raise UsageError("standard input (-) can be used only once", "name a file for the other picture")
    if output == STDIN:
        raise UsageError("-o - would mix the sheet with the comparison on stdout", "name a file: -o both.png")
    if _are_same(one, other):
        raise UsageError(f"{one} and {other} are the same file", "name two pictures")
    # Imported here because these modules import Pillow and NumPy, which a wrong option must not wait for.
    from sensenova_cli.comparing.comparison import compare_pictures, read_compared
    from sensenova_cli.render.comparison import SHEET_TILE, comparison_sheet, print_comparison
    from sensenova_cli.render.console import print_note, stderr_console
    from sensenova_cli.render.json import print_json
    from sensenova_cli.render.preview import HALF, Preview
    from sensenova_cli.system.unicode import for_terminal
    from sensenova_cli.turns.sheet_files import SheetFile

    console = stderr_console()
    preview = Preview.choose(console, _preview_setting(flags), part=HALF)
    comparison = compare_pictures(read_compared(one), read_compared(other))
    notes = list(comparison.notes)
    file = None if output is None else SheetFile.prepare(output, notes.append, force=flags.force)
    preview.show_several([comparison.one.image, comparison.other.image])
    written = None if file is None else file.write(comparison_sheet(comparison), SHEET_TILE)[0]
    if flags.json:
        print_json({**comparison.as_json(), "notes": notes, "path": None if written is None else str(written)})
        return
    for note in [] if flags.quiet else notes:
        print_note(console, note)
    print_comparison(comparison)
    if written is not None:
        print(for_terminal(written))


def _preview_setting(flags: Flags) -> Any:
    """Return the setting `preview`; `off` where nothing but the result is wanted."""
    return "off" if flags.quiet or flags.json else flags.layers().output.preview


def _are_same(one: str, other: str) -> bool:
    """Return whether two names mean the same file."""
    if STDIN in (one, other):
        return False
    try:
        return Path(one).expanduser().samefile(Path(other).expanduser())
    except (
        OSError,
        ValueError,
        RuntimeError,
    ):  # reading it explains the problem
        return False
