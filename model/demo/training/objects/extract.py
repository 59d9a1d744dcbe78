"""Make `objects.png` from Noto Color Emoji (Debian package fonts-noto-color-emoji):

python -m model.demo.training.objects.extract /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf
"""

import sys

from PIL import Image, ImageDraw, ImageFont

from model.demo.training.rendering import ATLAS, ATLAS_CELL, ATLAS_COLUMNS
from model.demo.training.world import OBJECTS

BITMAP_SIZE = 109
"""The only size of the font's bitmaps."""


def main(font_file: str) -> None:
    font = ImageFont.truetype(font_file, BITMAP_SIZE)
    rows = -(-len(OBJECTS) // ATLAS_COLUMNS)
    atlas = Image.new("RGBA", (ATLAS_COLUMNS * ATLAS_CELL, rows * ATLAS_CELL))
    for index, code_point in enumerate(OBJECTS.values()):
        cell = Image.new("RGBA", (ATLAS_CELL, ATLAS_CELL))
        pen, middle = ImageDraw.Draw(cell), ATLAS_CELL // 2
        pen.text((middle, middle), chr(code_point), font=font, embedded_color=True, anchor="mm")
        atlas.paste(cell, (index % ATLAS_COLUMNS * ATLAS_CELL, index // ATLAS_COLUMNS * ATLAS_CELL))
    atlas.save(ATLAS, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
