"""What Rich prints of a picture: half blocks, or the escape sequences of a graphics protocol."""

import base64
import functools
import io
from collections.abc import Iterator

from PIL import Image
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import ControlType, Segment
from rich.style import Style

from sensenova_cli.render.preview.detect import Method

CHUNK = 4096
"""Most characters of a picture in one of kitty's escape sequences."""

HALF_BLOCKS = (1, 2)
"""Width and height in pixels of a cell of half blocks."""

FIRST_COMMON = 16
"""The first colour that is the same in all terminals; those before it are the user's to choose."""

_RAW = [(ControlType.CURSOR_FORWARD, 0)]
"""Marks a segment as one that takes no room and is printed as it is; which control it names does not matter."""


def fit(size: tuple[int, int], cell: tuple[int, int], columns: int, rows: int) -> tuple[int, int]:
    """Columns and rows of a picture, as large as there is room for, but with no pixel of it enlarged.

    Args:
        size: the picture's width and height in pixels.
        cell: width and height of a character cell in the same pixels.
        columns, rows: the room, at least 1 each.
    """
    width, height = size[0] / cell[0], size[1] / cell[1]
    scale = min(columns / width, rows / height, 1)
    return min(columns, max(1, round(width * scale))), min(rows, max(1, round(height * scale)))


class HalfBlocks:
    """A picture of characters that are half one colour and half another: two pixels a cell, taken for squares.

    Args:
        image: RGB.
        columns, rows: the room; where it is printed may have fewer columns.
    """

    def __init__(self, image: Image.Image, columns: int, rows: int) -> None:
        self._image = image
        self._columns = columns
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns, rows = fit(self._image.size, HALF_BLOCKS, min(self._columns, options.max_width), self._rows)
        small = self._image.resize((columns, 2 * rows), Image.Resampling.BOX)
        colours = _palette_colours(small) if console.color_system == "256" else _full_colours(small)
        for top in range(0, len(colours), 2 * columns):
            upper, lower = colours[top : top + columns], colours[top + columns : top + 2 * columns]
            for colour, background in zip(upper, lower, strict=True):
                yield Segment("▀", Style.from_color(colour, background))
            yield Segment.line()


def _full_colours(image: Image.Image) -> list[Color]:
    """The colour of each pixel, row by row."""
    pixels = image.tobytes()
    return [Color.from_rgb(*pixels[start : start + 3]) for start in range(0, len(pixels), 3)]


def _palette_colours(image: Image.Image) -> list[Color]:
    """The same from the 240 colours that terminals with 256 have in common.

    The nearest one of all: Rich keeps to the colour cube, where dark green becomes bright. Dots of dithering would be
    as large as the things in the picture.
    """
    nearest = image.quantize(palette=_common_palette(), dither=Image.Dither.NONE)
    return [Color.from_ansi(FIRST_COMMON + index) for index in nearest.tobytes()]


@functools.cache
def _common_palette() -> Image.Image:
    colours = [Color.from_ansi(number).get_truecolor() for number in range(FIRST_COMMON, 256)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour in colours for part in colour])
    return palette


class PlacedPicture:
    """A picture that the terminal itself draws, on rows that are kept free for it.

    The cursor is put below the picture without relying on where the terminal leaves it, in which they differ.

    Args:
        sequences: what draws the picture with its upper left corner at the cursor.
    """

    def __init__(self, sequences: list[str], rows: int) -> None:
        self._sequences = sequences
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for _ in range(self._rows):
            yield Segment.line()  # scrolls where there is no room left
        drawing = "".join(self._sequences)
        yield Segment(f"\x1b[{self._rows}A\r\x1b7{drawing}\x1b8\x1b[{self._rows}B", None, _RAW)


def placed_picture(image: Image.Image, method: Method, cell: tuple[int, int], columns: int, rows: int) -> PlacedPicture:
    """The picture in a graphics protocol (any method but blocks), within so many columns and rows."""
    columns, rows = fit(image.size, cell, columns, rows)
    # More pixels than are shown would only take long to send.
    small = image.resize((columns * cell[0], rows * cell[1]), Image.Resampling.LANCZOS)
    match method:
        case "kitty":
            sequences = list(_kitty(small, columns, rows))
        case "iterm2":
            sequences = [_iterm2(small, columns, rows)]
        case "sixel":
            sequences = [_sixel(small)]
        case _:
            raise ValueError(f"{method} is no graphics protocol")
    return PlacedPicture(sequences, rows)


def _kitty(image: Image.Image, columns: int, rows: int) -> Iterator[str]:
    """https://sw.kovidgoyal.net/kitty/graphics-protocol: transmit a PNG and show it, in chunks."""
    text = _png(image)
    for start in range(0, len(text), CHUNK):
        more = int(start + CHUNK < len(text))
        # q: say neither that it worked nor that it did not, which would be read as typed keys. C: leave the cursor.
        keys = f"a=T,f=100,q=2,C=1,c={columns},r={rows},m={more}" if start == 0 else f"q=2,m={more}"
        yield f"\x1b_G{keys};{text[start : start + CHUNK]}\x1b\\"


def _iterm2(image: Image.Image, columns: int, rows: int) -> str:
    """https://iterm2.com/documentation-images.html: a PNG file, shown inline."""
    text = _png(image)
    size = len(base64.b64decode(text))
    return f"\x1b]1337;File=inline=1;size={size};width={columns};height={rows};preserveAspectRatio=1:{text}\x07"


def _sixel(image: Image.Image) -> str:
    # The package's public classes ask the terminal for its size and abilities as they are imported and used, which
    # can lose typed keys and fails where standard input is a pipe. Its encoder does neither; it is private, which is
    # why pyproject.toml admits only versions that were tried.
    from textual_image._sixel import image_to_sixels

    return image_to_sixels(image)


def _png(image: Image.Image) -> str:
    """The picture as PNG in base64, without the settings that finished files carry."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
