"""Contact sheets for terminals: several numbered pictures in one. `sensenova_cli.render.sheet` has those for files."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from sensenova_cli.render.preview.renderables import HALF_BLOCKS
from sensenova_cli.render.sheet import centered, scaled_size

DIGITS = (
    "###  #  ### ### # # ### ### ### ### ###",
    "# # ##    #   # # # #   #     # # # # #",
    "# #  #  ### ### ### ### ###   # ### ###",
    "# #  #  #     #   #   # # #   # # #   #",
    "### ### ### ###   # ### ###   # ### ###",
)
"""The digits 0 to 9, four columns each. Digits of a font are illegible on a tile that is 20 half blocks high."""
LARGE = 0.1
"""Height of a number as a fraction of its tile; small tiles have larger numbers."""


def contact_sheet(images: Sequence[Image.Image], room: tuple[int, int], numbers: Sequence[int]) -> Image.Image:
    """Arrange pictures in rows of equal tiles, with their numbers in the upper left corners.

    Args:
        images: RGB, at least one. Each is scaled to fit its tile, on a black background.
        room: maximum width and height of the sheet in pixels. Numbers are sharp only if it is shown at its own size.
        numbers: the number of each picture.

    Returns:
        An RGB picture with an even height, which half blocks need.
    """
    widest = max(image.width / image.height for image in images)
    gap = max(1, min(room) // 100)

    def tile_width(across: int) -> float:
        down = math.ceil(len(images) / across)
        width, height = ((side - (count - 1) * gap) / count for side, count in zip(room, (across, down), strict=True))
        return min(width, height * widest)

    across = max(range(1, len(images) + 1), key=tile_width)
    down = math.ceil(len(images) / across)
    tile = (max(1, int(tile_width(across))), max(1, int(tile_width(across) / widest)))
    height = down * (tile[1] + gap) - gap
    sheet = Image.new("RGB", (across * (tile[0] + gap) - gap, height + height % HALF_BLOCKS[1]))
    for index, image in enumerate(images):
        row, column = divmod(index, across)
        left, top = column * (tile[0] + gap), row * (tile[1] + gap)
        scale = min(tile[0] / image.width, tile[1] / image.height)
        size = scaled_size(image.size, scale)
        sheet.paste(image.resize(size, Image.Resampling.LANCZOS), centered(size, tile, (left, top)))
        _write_number(sheet, numbers[index], (left, top), max(1, round(LARGE * min(tile) / len(DIGITS))))
    return sheet


def _write_number(sheet: Image.Image, number: int, corner: tuple[int, int], dot: int) -> None:
    """Draw a number in white on a black box; `dot` is the side of a digit's dots in pixels."""
    rows = [" ".join(line[4 * int(digit) : 4 * int(digit) + 3] for digit in str(number)) for line in DIGITS]
    draw = ImageDraw.Draw(sheet)
    right, bottom = (len(rows[0]) + 2) * dot, (len(rows) + 2) * dot
    draw.rectangle((*corner, corner[0] + right - 1, corner[1] + bottom - 1), fill="black")
    for y, line in enumerate(rows, start=1):
        for x, mark in enumerate(line, start=1):
            if mark != " ":
                left, top = corner[0] + x * dot, corner[1] + y * dot
                draw.rectangle((left, top, left + dot - 1, top + dot - 1), fill="white")
