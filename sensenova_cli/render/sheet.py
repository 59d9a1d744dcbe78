"""Sheets: several pictures in one, in rows of equal tiles, with labels, for files.

`sensenova_cli.render.preview.sheet` has the sheets for terminals, whose few pixels have room for numbers only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from sensenova_cli.render.fonts import Font, choose_font
from sensenova_cli.system.unicode import printable, valid_unicode

MAX_TILE = 512
"""Longest side in pixels that a picture has on a sheet, unless the caller chooses another one."""
MIN_TILE = 160
"""Least width in pixels of a column, and the side to which smaller pictures are enlarged: its label needs room."""
MAX_PIXELS = 64 * 2**20
"""Most pixels of all tiles of a sheet. With more pictures, the tiles are smaller."""
MAX_SIDE = 32_000
"""Longest side in pixels of all tiles of a sheet. Some viewers open no larger pictures, and WebP allows 16,383."""
LABEL_LINES, TITLE_LINES = 4, 4
"""Most lines of a label and of the title. The rest of a longer text is cut."""
MAX_TEXT = 2000
"""Most characters of a text that are laid out: more would not fit into its lines."""
BACKGROUND, INK, EMPTY = "white", "#202020", "#e8e8e8"


@dataclass(frozen=True)
class Sheet:
    """The content of a sheet.

    Attributes:
        rows: the pictures, RGB, row by row; None leaves a tile empty. All rows have the same length.
        title: a text above all pictures; empty for none.
        columns: a label above each column; empty for none.
        labels: a label left of each row; empty for none.
        captions: a text above each picture, row by row; empty for none.
    """

    rows: Sequence[Sequence[Image.Image | None]]
    title: str = ""
    columns: Sequence[str] = ()
    labels: Sequence[str] = ()
    captions: Sequence[Sequence[str]] = ()

    @property
    def text(self) -> str:
        """All text on the sheet."""
        texts = (self.title, *self.columns, *self.labels, *(text for row in self.captions for text in row))
        return printable(valid_unicode(" ".join(text[:MAX_TEXT] for text in texts)))


def tile_side(columns: int, rows: int, longest: int = MAX_TILE) -> int:
    """Return the longest side in pixels of the tiles of a sheet, so that the sheet does not become too large."""
    by_area = math.sqrt(MAX_PIXELS / (columns * rows))
    return max(1, int(min(longest, by_area, MAX_SIDE / columns, MAX_SIDE / rows)))


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """Return a picture whose longer side has at most `side` pixels; a smaller picture stays as it is."""
    scale = side / max(image.size)
    if scale >= 1:
        return image
    return image.resize(scaled_size(image.size, scale), Image.Resampling.LANCZOS)


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return a size in pixels multiplied by `scale`; each side has at least one pixel."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def centered(size: tuple[int, int], tile: tuple[int, int], corner: tuple[int, int]) -> tuple[int, int]:
    """Return the upper left corner of a picture in the middle of a tile whose own corner is `corner`."""
    return corner[0] + (tile[0] - size[0]) // 2, corner[1] + (tile[1] - size[1]) // 2


def wrapped(items: Sequence[Image.Image | None], captions: Sequence[str], title: str = "") -> Sheet:
    """Return a sheet of one series of pictures, in about as many rows as columns, each with its caption. Up to six
    pictures are one row."""
    across = len(items) if len(items) <= 6 else math.ceil(math.sqrt(len(items)))
    padding = -len(items) % across
    tiles, texts = [*items, *[None] * padding], [*captions, *[""] * padding]
    starts = range(0, len(tiles), across)
    rows = [tiles[start : start + across] for start in starts]
    return Sheet(rows, title, captions=[texts[start : start + across] for start in starts])


def draw_sheet(sheet: Sheet, longest: int = MAX_TILE) -> Image.Image:
    """Draw a sheet on a white background.

    Pictures keep their pixels if they fit. Larger ones are scaled down, and small ones are enlarged by a whole number,
    so that labels have room. Text is wrapped; its size follows that of the tiles.

    Args:
        longest: longest side of a picture on the sheet in pixels.

    Returns:
        An RGB picture.
    """
    down, across = len(sheet.rows), len(sheet.rows[0])
    side = tile_side(across, down, longest)
    tiles = [[None if image is None else _fitted(image, side) for image in row] for row in sheet.rows]
    known = [tile for row in tiles for tile in row if tile is not None]
    tile = (
        max((each.width for each in known), default=MIN_TILE),
        max((each.height for each in known), default=MIN_TILE),
    )
    tile = (max(tile[0], MIN_TILE), tile[1])
    text_size = max(16, min(44, round(min(tile) / 18)))
    gap = max(6, text_size // 2)
    font = choose_font(sheet.text, text_size)
    title_font = choose_font(sheet.text, round(text_size * 1.25))

    label_width = 0
    if any(sheet.labels):
        widest = max(_width(font, label) for label in sheet.labels)
        label_width = min(math.ceil(widest), max(MIN_TILE, tile[0] * 2 // 3)) + gap
    width = 2 * gap + label_width + across * (tile[0] + gap) - gap
    title = wrap_text(sheet.title, title_font, width - 2 * gap, TITLE_LINES)
    columns = [wrap_text(text, font, tile[0], LABEL_LINES) for text in sheet.columns]
    captions = [[wrap_text(text, font, tile[0], LABEL_LINES) for text in row] for row in sheet.captions]
    labels = [wrap_text(text, font, label_width - gap, LABEL_LINES * 2) for text in sheet.labels]

    line = round(text_size * 1.3)
    title_line = round(text_size * 1.25 * 1.3)
    top = gap + (len(title) * title_line + gap if title else 0)
    header = max(map(len, columns), default=0) * line
    above = [max(map(len, row), default=0) * line for row in captions] or [0] * down
    heights = [max(high + tile[1], len(text) * line) for high, text in zip(above, labels or [[]] * down, strict=True)]
    height = top + (header + gap // 2 if header else 0) + sum(heights) + down * gap

    picture = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    _write(draw, title, (gap, gap), title_font, title_line)
    left = gap + label_width
    for column, text in enumerate(columns):
        bottom = top + header - len(text) * line  # labels stand on the tiles
        _write(draw, text, (left + column * (tile[0] + gap), bottom), font, line, width=tile[0])
    y = top + (header + gap // 2 if header else 0)
    for row, images in enumerate(tiles):
        if labels:
            middle = y + above[row] + max(0, (tile[1] - len(labels[row]) * line) // 2)
            _write(draw, labels[row], (gap, middle), font, line)
        for column, image in enumerate(images):
            corner = (left + column * (tile[0] + gap), y + above[row])
            if captions:
                text = captions[row][column]
                _write(draw, text, (corner[0], corner[1] - len(text) * line), font, line, width=tile[0])
            if image is not None:
                picture.paste(image, centered(image.size, tile, corner))
            elif not captions or captions[row][column]:  # not one that only fills the last row
                draw.rectangle((*corner, corner[0] + tile[0] - 1, corner[1] + tile[1] - 1), fill=EMPTY)
        y += heights[row] + gap
    return picture


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """Return a picture scaled down to `side`, or enlarged by a whole number if it is smaller than `MIN_TILE`."""
    factor = min(MIN_TILE, side) // max(image.size)
    if factor > 1:
        return image.resize(scaled_size(image.size, factor), Image.Resampling.NEAREST)
    return shrunk(image, side)


def wrap_text(text: str, font: Font, width: float, most: int) -> list[str]:
    """Break a text into lines of at most `width` pixels, between words if possible. Of more than `most` lines the rest
    is replaced by an ellipsis."""
    lines: list[str] = []
    for paragraph in printable(valid_unicode(text[:MAX_TEXT])).splitlines():
        line = ""
        for word in _pieces(paragraph, font, width):
            longer = f"{line} {word}" if line else word
            if line and _width(font, longer) > width:
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    if len(lines) > most:
        last = lines[most - 1]
        while last and _width(font, f"{last}…") > width:
            last = last[:-1]
        lines[most - 1 :] = [f"{last.rstrip()}…"]
    return lines


def _pieces(text: str, font: Font, width: float) -> list[str]:
    """Split a text into words, and words that are wider than a line into parts. Chinese has no spaces."""
    pieces = []
    for word in text.split():
        rest = word
        while rest:
            fits = 1
            while fits < len(rest) and _width(font, rest[: fits + 1]) <= width:
                fits += 1
            pieces.append(rest[:fits])
            rest = rest[fits:]
    return pieces


def _width(font: Font, text: str) -> float:
    return max((font.getlength(line) for line in text.splitlines()), default=0)


def _write(
    draw: ImageDraw.ImageDraw,
    lines: Sequence[str],
    corner: tuple[int, int],
    font: Font,
    line: int,
    width: int | None = None,
) -> None:
    """Write lines below each other; in the middle of `width` pixels if that is given."""
    for index, text in enumerate(lines):
        shift = 0 if width is None else max(0, round((width - _width(font, text)) / 2))
        draw.text((corner[0] + shift, corner[1] + index * line), text, fill=INK, font=font)
