"""Tables of plain columns on stdout. Cells are never cut, in pipes and on narrow terminals."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

UNLIMITED = 100_000
"""A width in columns that no table reaches."""


def plain_table(*headings: str) -> Table:
    """Return a table without lines between its cells. Columns are two spaces apart; the caller may add more columns."""
    return Table(*headings, box=None, show_header=bool(headings), header_style="", padding=(0, 2, 0, 0), pad_edge=False)


def print_table(table: Table, width: int = UNLIMITED) -> None:
    """Print a table without the spaces at the ends of its lines; a terminal wraps lines that are too long.

    Args:
        width: columns within which Rich lays out the table.
    """
    console = Console(highlight=False)
    for segments in console.render_lines(table, console.options.update_width(width), pad=False):
        line = Text.assemble(*((segment.text, segment.style or "") for segment in segments))
        line.rstrip()
        console.print(line, soft_wrap=True)
