"""Make the README's screenshot from a real session on the built-in demo.

python -m benchmarks.session_screenshot docs/session.svg
"""

import argparse
import io
import tempfile
from pathlib import Path

import pyte
from rich.color import Color
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style

from tests.repl.terminal import Terminal

COLUMNS, ROWS = 64, 44
TYPED = (
    ("a cute cat on a blue background", "picture 1  ", "selected 1"),
    ("turn this into an oil painting", "picture 2  ", "selected 2"),
    ("? what is this?", "An oil painting of a cat on a blue background.", "selected 2"),
)
"""Typed lines, each with the texts that then appear on the screen and in the toolbar."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file.absolute()
    with tempfile.TemporaryDirectory(prefix="s") as folder:
        screen = Terminal("repl", folder=Path(folder), columns=COLUMNS, rows=ROWS)
        screen.wait_for_toolbar("draw")
        for line, text, toolbar in TYPED:
            screen.type(line)
            screen.wait_for(text)
            screen.wait_for_toolbar(toolbar)
            screen.read(1)
        console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
        console.print(Segments(_segments(screen.screen)), end="")
        screen.leave()
    console.save_svg(str(file), title="sensenova repl")


def _segments(screen: pyte.Screen) -> list[Segment]:
    """Return the screen's characters with their colours."""
    segments = []
    for row in range(screen.lines):
        for column in range(screen.columns):
            cell = screen.buffer[row][column]
            style = Style(color=_color(cell.fg), bgcolor=_color(cell.bg), bold=cell.bold)
            segments.append(Segment(cell.data, style))
        segments.append(Segment.line())
    return segments


def _color(name: str) -> Color | None:
    """Return a colour by pyte's name for it, which is six hexadecimal digits or a word."""
    if name == "default":
        return None
    names = {"brown": "yellow", "brightblack": "bright_black"}
    return Color.parse(f"#{name}" if len(name) == 6 and set(name) <= set("0123456789abcdef") else names.get(name, name))


if __name__ == "__main__":
    main()
