"""Tables of plain columns on stdout. Neither pipes nor narrow terminals cut their cells."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

UNLIMITED = 100_000
"""A width in columns that no table reaches."""


def plain_table(*headings: str) -> Table:
    """Return a table without rules; its columns are two spaces apart, and more of them may be added."""
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
