"""Record the README's session: a real one on the built-in demo, as an SVG file that plays by itself.

    python -m benchmarks.session_recording docs/session.svg

The screen is captured while keys are typed and while the program works. The picture's half blocks become one small
bitmap for each frame, so that the file stays small; everything else is text.
"""

import argparse
import base64
import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

import pyte
from PIL import Image
from rich.color import Color
from rich.terminal_theme import SVG_EXPORT_THEME

from tests.repl.terminal import Terminal

COLUMNS, ROWS = 72, 30
CELL_WIDTH, CELL_HEIGHT, MARGIN = 9, 20, 12
"""Pixels of a character, and around the screen."""
TYPED = (
    ("a cute cat on a blue background", "picture 1  ", "selected 1"),
    ("? what is this?", "A cat on a blue background.", "selected 1"),
    ("make the background green", "picture 2  ", "selected 2"),
    ("/generate a fox on a pink background -n 3", "pictures 3, 4, 5", "selected 3"),
)
"""Typed lines, each with the texts that then appear on the screen and in the toolbar."""
KEYS_AT_ONCE = 4
TYPING_SECONDS, WORKING_SECONDS, READING_SECONDS = 0.15, 0.25, 2.5
"""Time that a frame is shown: while keys are typed, while the program works, and when it has finished."""
QUIET_SECONDS = 0.03
"""Pause in the program's output after which a frame is complete."""
BLOCKS = "▀▄█ "
MOST_FRAMES_OF_WORK = 12
"""Frames of one turn; with more, some are left out."""


@dataclass(frozen=True)
class Cell:
    """A character of the screen with its colors, as `#rrggbb`."""

    text: str
    color: str
    background: str
    bold: bool


Frame = tuple[tuple[Cell, ...], ...]
"""The rows of the screen."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file.absolute()
    frames = list(record())
    file.write_text(animation(frames), encoding="utf-8")
    print(f"{file}: {len(frames)} frames, {sum(seconds for _, seconds in frames):.0f} s, {file.stat().st_size:,} bytes")


def record() -> Iterator[tuple[Frame, float]]:
    """Run the session and yield each frame with the seconds that it is shown."""
    with tempfile.TemporaryDirectory(prefix="s") as folder:
        screen = Terminal("repl", folder=Path(folder), columns=COLUMNS, rows=ROWS)
        screen.wait_for_toolbar("draw · demo")  # it is loaded
        settle(screen)
        yield captured(screen), READING_SECONDS
        for line, text, toolbar in TYPED:
            for start in range(0, len(line), KEYS_AT_ONCE):
                screen.child.send(line[start : start + KEYS_AT_ONCE])
                screen.read(0.3)
                yield captured(screen), TYPING_SECONDS
            screen.child.send("\r")
            working: list[Frame] = []
            while text not in screen.text or toolbar not in screen.toolbar:
                settle(screen)
                frame = captured(screen)
                if not working or frame != working[-1]:
                    working.append(frame)
            step = max(1, -(-len(working) // MOST_FRAMES_OF_WORK))
            yield from ((frame, WORKING_SECONDS) for frame in working[::step])
            screen.read(1)
            yield captured(screen), READING_SECONDS
        screen.leave()


def settle(terminal: Terminal) -> None:
    """Read until the program pauses, so that no frame shows half of a picture."""
    known = -1
    while known != len(terminal.raw):
        known = len(terminal.raw)
        terminal.read(QUIET_SECONDS)


def captured(terminal: Terminal) -> Frame:
    """Return the terminal's screen as it is now."""
    screen = terminal.screen
    return tuple(tuple(_cell(screen.buffer[row][column]) for column in range(COLUMNS)) for row in range(ROWS))


def _cell(char: pyte.screens.Char) -> Cell:
    color, background = _color(char.fg, is_text=True), _color(char.bg, is_text=False)
    if char.reverse:
        color, background = background, color
    return Cell(char.data or " ", color, background, char.bold)


def _color(name: str, *, is_text: bool) -> str:
    """Return a color by pyte's name for it, which is six hexadecimal digits or a word."""
    if len(name) == 6 and set(name) <= set("0123456789abcdef"):
        return f"#{name}"
    names = {"brown": "yellow", "brightblack": "bright_black"}
    found = Color.parse(names.get(name, name))
    return found.get_truecolor(SVG_EXPORT_THEME, foreground=is_text).hex


def animation(frames: list[tuple[Frame, float]]) -> str:
    """Return an SVG that shows the frames one after the other, again and again. Where nothing moves, it shows the last
    frame."""
    total = sum(seconds for _, seconds in frames)
    width, height = COLUMNS * CELL_WIDTH + 2 * MARGIN, ROWS * CELL_HEIGHT + 2 * MARGIN
    background = SVG_EXPORT_THEME.background_color.hex
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">',
        "<title>sensenova repl</title>",
        "<style>text{font:15px 'Fira Code','DejaVu Sans Mono',Menlo,Consolas,monospace;white-space:pre}"
        "image{image-rendering:pixelated}.b{font-weight:bold}</style>",
        f'<rect width="{width}" height="{height}" rx="8" fill="{background}"/>',
        f'<g transform="translate({MARGIN},{MARGIN})">',
    ]
    start = 0.0
    for index, (frame, seconds) in enumerate(frames):
        is_last = index == len(frames) - 1
        times = f"0;{start / total:.5f}" + ("" if is_last else f";{(start + seconds) / total:.5f}")
        values = "none;inline" + ("" if is_last else ";none")
        if index == 0:
            times, values = f"0;{seconds / total:.5f}", "inline;none"
        parts.append(f'<g display="{"inline" if is_last else "none"}">')
        parts.append(
            f'<animate attributeName="display" values="{values}" keyTimes="{times}" calcMode="discrete" '
            f'dur="{total:.2f}s" repeatCount="indefinite"/>'
        )
        parts.append(_drawn(frame))
        parts.append("</g>")
        start += seconds
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _drawn(frame: Frame) -> str:
    """Return a frame's colors as one bitmap, and its characters as text."""
    bitmap = Image.new("RGB", (COLUMNS, 2 * ROWS))
    texts: list[str] = []
    for row, cells in enumerate(frame):
        for column, cell in enumerate(cells):
            upper, lower = _halves(cell)
            bitmap.putpixel((column, 2 * row), _rgb(upper))
            bitmap.putpixel((column, 2 * row + 1), _rgb(lower))
        for (color, bold), run in groupby(enumerate(cells), key=lambda each: (each[1].color, each[1].bold)):
            texts += _text(list(run), row, color, bold)
    file = io.BytesIO()
    bitmap.quantize(256).save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    size = f'width="{COLUMNS * CELL_WIDTH}" height="{ROWS * CELL_HEIGHT}"'
    return f'<image {size} preserveAspectRatio="none" href="data:image/png;base64,{data}"/>\n' + "\n".join(texts)


def _halves(cell: Cell) -> tuple[str, str]:
    """Return the colors of the upper and the lower half of a cell."""
    return {
        "▀": (cell.color, cell.background),
        "▄": (cell.background, cell.color),
        "█": (cell.color, cell.color),
    }.get(cell.text, (cell.background, cell.background))


def _text(run: list[tuple[int, Cell]], row: int, color: str, bold: bool) -> Iterator[str]:
    """Yield the words of a run of cells with one color; blocks are in the bitmap."""
    for is_block, cells in groupby(run, key=lambda each: each[1].text in BLOCKS.strip()):
        part = list(cells)
        words = "".join(cell.text for _, cell in part)
        if is_block or not words.strip():
            continue
        x = (part[0][0] + len(words) - len(words.lstrip())) * CELL_WIDTH
        words = words.strip()
        style = ' class="b"' if bold else ""
        length = f'textLength="{len(words) * CELL_WIDTH}" lengthAdjust="spacingAndGlyphs"'
        yield f'<text x="{x}" y="{row * CELL_HEIGHT + 15}" fill="{color}" {length}{style}>{escape(words)}</text>'


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


if __name__ == "__main__":
    main()
