"""Display of a comparison: lines of a table, and a sheet with both pictures and their difference."""

import shutil
import sys

from rich.table import Table
from rich.text import Text

from sensenova_cli.comparing.comparison import ComparedPicture, Comparison
from sensenova_cli.comparing.likeness import difference_image
from sensenova_cli.comparing.record_differences import shown_value
from sensenova_cli.render.sheet import Sheet
from sensenova_cli.render.table import UNLIMITED, plain_table, print_table
from sensenova_cli.system.unicode import printable

SHEET_TILE = 1024
"""Longest side in pixels of a picture on the sheet."""
LABELLED = 2
"""Most differing settings that a label of a sheet names, below the name of the picture."""


def print_comparison(comparison: Comparison) -> None:
    """Print the differing settings and the likeness on stdout, within the width of a screen."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else UNLIMITED
    print_table(comparison_table(comparison), width)


def comparison_table(comparison: Comparison) -> Table:
    """Return a table: a row for each setting that differs, and one for each measure of likeness."""
    one, other = comparison.one, comparison.other
    table = plain_table("")
    for each in (one, other):
        table.add_column(Text(printable(each.name)), overflow="fold")
    for name, values in (comparison.settings or {}).items():
        table.add_row(
            name, *(Text(_shown(name, value, each)) for value, each in zip(values, (one, other), strict=True))
        )
    if comparison.settings == {}:
        table.add_row("settings", "the same", "the same")
    if not comparison.same_size and "size" not in (comparison.settings or {}):
        table.add_row("size", *(f"{each.image.width}x{each.image.height}" for each in (one, other)))
    if comparison.same_pixels:
        table.add_row("pixels", "the same", "the same")
        if comparison.same_file:
            table.add_row("files", "the same", "the same")
    elif comparison.same_size:
        table.add_row("PSNR", f"{comparison.psnr:.2f} dB")
        table.add_row("SSIM", "" if comparison.ssim is None else f"{comparison.ssim:.4f}")
        table.add_row("largest difference", f"{comparison.largest_difference} of 255")
    return table


def comparison_sheet(comparison: Comparison) -> Sheet:
    """Return a sheet with both pictures and, if they have the same size, their difference."""
    one, other = comparison.one, comparison.other
    images, labels = [one.image, other.image], [_label(comparison, index) for index in (0, 1)]
    if comparison.same_size:
        difference, factor = difference_image(one.image, other.image)
        images.append(difference)
        labels.append("difference" if factor == 1 else f"difference × {factor}")
    prompts = {each.record.prompt for each in (one, other) if each.record is not None}
    prompt = f"{prompts.pop()}\n" if len(prompts) == 1 else ""
    return Sheet([images], f"{prompt}{comparison.measures}", labels)


def _label(comparison: Comparison, index: int) -> str:
    picture = (comparison.one, comparison.other)[index]
    differing = comparison.settings or {}
    names = sorted(differing, key=lambda name: name == "prompt")[:LABELLED]  # a long prompt would hide the others
    return "\n".join([picture.name, *(f"{name} = {_shown(name, differing[name][index], picture)}" for name in names)])


def _shown(name: str, value: object, picture: ComparedPicture) -> str:
    assert picture.record is not None  # otherwise no settings are compared
    return " ".join(printable(shown_value(name, value, picture.record)).split())
