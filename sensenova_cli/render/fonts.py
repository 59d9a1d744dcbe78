"""Fonts for text in pictures: Pillow's own font for plain English, and fonts of the system for other scripts."""

from functools import cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SYSTEM_FONTS = (
    "DejaVuSans.ttf",  # Latin with accents, Cyrillic, Greek, Arabic, signs
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",  # Chinese, Japanese, Korean
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "Arial Unicode.ttf",  # macOS
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
)
"""Files of common fonts. Pillow searches the system's folders for them."""
NO_CHARACTER = "\uffff"
"""A code point without a character: every font draws its sign for a missing one."""
PROBE_SIZE = 20
"""Size in pixels at which the characters of a font are looked up."""


def choose_font(text: str, size: float) -> Font:
    """Return a font of this size in pixels that has all characters of a text, or as many of them as possible."""
    return _load(_best_name(text), size)


def missing_characters(text: str) -> str:
    """Return the characters of a text, each once, that no font here has. They appear as boxes."""
    return "".join(_missing(_best_name(text), text))


def _best_name(text: str) -> str | None:
    """Return the file name of the best font for a text; None for Pillow's own font."""
    names = (None, *SYSTEM_FONTS)
    fewest = None
    best: str | None = None
    for name in names:
        if name is not None and _load(name, PROBE_SIZE) is _load(None, PROBE_SIZE):
            continue  # this system does not have it
        count = len(_missing(name, text))
        if fewest is None or count < fewest:
            fewest, best = count, name
        if count == 0:
            break
    return best


def _missing(name: str | None, text: str) -> list[str]:
    characters = dict.fromkeys(character for character in text if not character.isspace())
    return [character for character in characters if not _has(name, character)]


@cache
def _has(name: str | None, character: str) -> bool:
    return _pixels(name, character) != _pixels(name, NO_CHARACTER)


def _pixels(name: str | None, character: str) -> tuple[tuple[int, int], bytes]:
    mask = _load(name, PROBE_SIZE).getmask(character)
    return mask.size, bytes(mask)


@cache
def _load(name: str | None, size: float) -> Font:
    """Load a font of the system, or Pillow's own font if the name is None or the system does not have it."""
    if name is not None:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            pass
    return _own(size)


@cache
def _own(size: float) -> Font:
    return ImageFont.load_default(size)
