"""Rich renderables of a picture: half blocks, or the escape sequences of a graphics protocol."""

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
"""Maximum number of payload characters in one of kitty's escape sequences."""

HALF_BLOCKS = (1, 2)
"""Width and height in pixels of a character cell of half blocks."""

FIRST_COMMON = 16
"""First color that is the same in all terminals; users choose the colors before it."""

_RAW = [(ControlType.CURSOR_FORWARD, 0)]
"""Marks a segment that has no width and is printed unchanged. Any control code would do."""


def fit(size: tuple[int, int], cell: tuple[int, int], columns: int, rows: int) -> tuple[int, int]:
    """Return the columns and rows of a picture: as large as the room allows, but never enlarged.

    Args:
        size: the picture's width and height in pixels.
        cell: width and height of a character cell in the same pixels.
        columns, rows: available room, at least 1 each.
    """
    width, height = size[0] / cell[0], size[1] / cell[1]
    scale = min(columns / width, rows / height, 1)
    return min(columns, max(1, round(width * scale))), min(rows, max(1, round(height * scale)))


class HalfBlocks:
    """A picture made of characters with two colors each: an upper and a lower pixel, which count as squares.

    Args:
        image: RGB.
        columns, rows: available room; the console may have fewer columns.
    """

    def __init__(self, image: Image.Image, columns: int, rows: int) -> None:
        self._image = image
        self._columns = columns
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns, rows = fit(self._image.size, HALF_BLOCKS, min(self._columns, options.max_width), self._rows)
        small = self._image.resize((columns, 2 * rows), Image.Resampling.BOX)
        colors = _palette_colors(small) if console.color_system == "256" else _full_colors(small)
        for top in range(0, len(colors), 2 * columns):
            upper, lower = colors[top : top + columns], colors[top + columns : top + 2 * columns]
            for color, background in zip(upper, lower, strict=True):
                yield Segment("▀", Style.from_color(color, background))
            yield Segment.line()


def _full_colors(image: Image.Image) -> list[Color]:
    """Return the color of each pixel, row by row."""
    pixels = image.tobytes()
    return [Color.from_rgb(*pixels[start : start + 3]) for start in range(0, len(pixels), 3)]


def _palette_colors(image: Image.Image) -> list[Color]:
    """Return the nearest of the 240 colors that all terminals with 256 colors share, for each pixel.

    Rich uses only the color cube, in which dark green becomes bright green. Dithering is off because its dots would be
    as large as the objects in the picture.
    """
    nearest = image.quantize(palette=_common_palette(), dither=Image.Dither.NONE)
    return [Color.from_ansi(FIRST_COMMON + index) for index in nearest.tobytes()]


@functools.cache
def _common_palette() -> Image.Image:
    colors = [Color.from_ansi(number).get_truecolor() for number in range(FIRST_COMMON, 256)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for color in colors for part in color])
    return palette


class PlacedPicture:
    """A picture that the terminal draws, on rows that are reserved for it.

    The cursor is moved below the picture explicitly, because terminals differ in where they leave it.

    Args:
        sequences: escape sequences that draw the picture with its upper left corner at the cursor.
    """

    def __init__(self, sequences: list[str], rows: int) -> None:
        self._sequences = sequences
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for _ in range(self._rows):
            yield Segment.line()  # scrolls if there is no room left
        drawing = "".join(self._sequences)
        yield Segment(f"\x1b[{self._rows}A\r\x1b7{drawing}\x1b8\x1b[{self._rows}B", None, _RAW)


def placed_picture(image: Image.Image, method: Method, cell: tuple[int, int], columns: int, rows: int) -> PlacedPicture:
    """Return the picture in a graphics protocol (any method but blocks) that fits into these columns and rows."""
    columns, rows = fit(image.size, cell, columns, rows)
    # More pixels than the terminal shows would only slow down the transfer.
    small = image.resize((columns * cell[0], rows * cell[1]), Image.Resampling.LANCZOS)
    match method:
        case "kitty":
            sequences = list(_kitty(small, columns, rows))
        case "iterm2":
            sequences = [_iterm2(small, columns, rows)]
        case "sixel":
            sequences = [_sixel(small)]
        case _:
            raise ValueError(f"{method} is not a graphics protocol")
    return PlacedPicture(sequences, rows)


def _kitty(image: Image.Image, columns: int, rows: int) -> Iterator[str]:
    """Yield sequences that transmit a PNG in chunks and show it: https://sw.kovidgoyal.net/kitty/graphics-protocol."""
    text = _png(image)
    for start in range(0, len(text), CHUNK):
        more = int(start + CHUNK < len(text))
        # q=2: send no reply, which would be read as typed keys. C=1: do not move the cursor.
        keys = f"a=T,f=100,q=2,C=1,c={columns},r={rows},m={more}" if start == 0 else f"q=2,m={more}"
        yield f"\x1b_G{keys};{text[start : start + CHUNK]}\x1b\\"


def _iterm2(image: Image.Image, columns: int, rows: int) -> str:
    """Return a sequence that shows a PNG file inline: https://iterm2.com/documentation-images.html."""
    text = _png(image)
    size = len(base64.b64decode(text))
    return f"\x1b]1337;File=inline=1;size={size};width={columns};height={rows};preserveAspectRatio=1:{text}\x07"


def _sixel(image: Image.Image) -> str:
    # The package's public classes query the terminal when they are imported and used, which can lose typed keys and
    # fails if standard input is a pipe. Its encoder does not, but it is private, so pyproject.toml accepts only tested
    # versions.
    from textual_image._sixel import image_to_sixels

    return image_to_sixels(image)


def _png(image: Image.Image) -> str:
    """Return the picture as PNG in base64, without a record."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
