"""Picture sizes: what a valid one is, which the models were trained on, and how `auto` and `16:9` resolve.

All sizes are (width, height) in pixels.
"""

import math
import re
from collections.abc import Sequence

from config.errors import SettingsError

Size = tuple[int, int]

TOKEN_PIXELS = 32
"""Side of the square of pixels that one image token covers; both sides of a picture are multiples of it."""

MAX_PIXELS = 4096 * 4096
"""Largest picture that may be asked for: four times the largest trained size."""

MAX_ASPECT = 200.0
"""Longest side over shortest side, above which the reference implementation refuses a picture."""

TRAINED_SIZES: tuple[Size, ...] = (
    (2048, 2048),
    (2720, 1536),
    (1536, 2720),
    (2496, 1664),
    (1664, 2496),
    (2368, 1760),
    (1760, 2368),
    (2880, 1440),
    (1440, 2880),
    (3456, 1152),
    (1152, 3456),
)
"""Resolution buckets of SenseNova-U1; the first one is the default size."""

BUCKET_TOLERANCE = 0.05
"""A trained size serves an aspect ratio when their log-ratios differ by less than this (about 5 %)."""


def parse_size(text: str) -> Size | None:
    """Read `WxH` (also `W×H`, `W*H`) and check it; None when the text is not of that form.

    Raises:
        SettingsError: a side is zero, negative or no multiple of 32, or the picture is too large or too long.
    """
    found = re.fullmatch(r"\s*([+-]?\d{1,30})\s*[x×*X]\s*([+-]?\d{1,30})\s*", text)
    if found is None:
        return None
    size = int(found[1]), int(found[2])
    check_size(size)
    return size


def parse_aspect(text: str) -> float | None:
    """Read `W:H` as width over height; None when the text is not of that form.

    Raises:
        SettingsError: a part is zero, or the ratio lies outside 1:200 to 200:1.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*:\s*(\d+(?:\.\d+)?)\s*", text)
    if found is None:
        return None
    width, height = float(found[1]), float(found[2])
    if width <= 0 or height <= 0:
        raise SettingsError(f"aspect {text.strip()}: both sides must be positive", "write it like 16:9, 1:1 or 2:3")
    if not 1 / MAX_ASPECT <= width / height <= MAX_ASPECT:
        longest = f"{MAX_ASPECT:g}:1" if width > height else f"1:{MAX_ASPECT:g}"
        raise SettingsError(
            f"aspect {text.strip()} is too long: sides may differ by a factor of {MAX_ASPECT:g} at most",
            f"the longest is {longest}",
        )
    return width / height


def check_size(size: Size) -> None:
    """Raise SettingsError, naming the nearest valid size, unless a picture of this size can be made."""
    width, height = size
    text = f"{width}x{height}"
    if width <= 0 or height <= 0:
        raise SettingsError(f"size {text}: both sides must be positive", f"try {format_size(TRAINED_SIZES[0])}")
    if width * height > MAX_PIXELS:
        raise SettingsError(
            f"size {text} has {width * height:,} pixels; the limit is {MAX_PIXELS:,}",
            f"try {format_size(nearest_trained(size, TRAINED_SIZES))}",
        )
    if width % TOKEN_PIXELS or height % TOKEN_PIXELS:
        nearest = " or ".join(map(format_size, nearest_valid(size)))
        raise SettingsError(f"size {text}: both sides must be multiples of {TOKEN_PIXELS}", f"try {nearest}")
    if max(size) / min(size) > MAX_ASPECT:
        raise SettingsError(
            f"size {text} is too long: sides may differ by a factor of {MAX_ASPECT:g} at most",
            f"try {format_size(_shorten(size))}",
        )


def nearest_valid(size: Size) -> list[Size]:
    """One or two valid sizes near this one, closest first."""
    below = tuple(side // TOKEN_PIXELS * TOKEN_PIXELS for side in size)
    above = tuple(-(-side // TOKEN_PIXELS) * TOKEN_PIXELS for side in size)
    rounded = tuple(round(side / TOKEN_PIXELS) * TOKEN_PIXELS for side in size)
    found: list[Size] = []
    for width, height in (rounded, below, above):
        near = _shorten((max(TOKEN_PIXELS, width), max(TOKEN_PIXELS, height)))
        if near not in found and near[0] * near[1] <= MAX_PIXELS:
            found.append(near)
    return found[:2]


def nearest_trained(size: Size, trained: Sequence[Size]) -> Size:
    """The trained size closest in aspect ratio, then in area (both as distances of logarithms)."""

    def distance(other: Size) -> tuple[float, float]:
        ratio = abs(math.log(size[0] / size[1]) - math.log(other[0] / other[1]))
        area = abs(math.log(size[0] * size[1]) - math.log(other[0] * other[1]))
        return round(ratio, 6), area

    return min(trained, key=distance)


def size_for_aspect(aspect: float, pixels: int) -> Size:
    """The size of about `pixels` pixels whose sides have this ratio, each rounded to a multiple of 32."""
    width = max(TOKEN_PIXELS, round(math.sqrt(pixels * aspect) / TOKEN_PIXELS) * TOKEN_PIXELS)
    height = max(TOKEN_PIXELS, round(math.sqrt(pixels / aspect) / TOKEN_PIXELS) * TOKEN_PIXELS)
    return _shorten((width, height))


def _shorten(size: Size) -> Size:
    """Cut the longer side where the size, rounded to tokens, is longer than MAX_ASPECT allows."""
    limit = int(MAX_ASPECT) * min(size)
    return min(size[0], limit), min(size[1], limit)


def resolve_size(setting: str, trained: Sequence[Size], first_image: Size | None = None) -> Size:
    """Turn the `size` setting into pixels.

    `WxH` is taken as it is. `W:H` gives the trained size of that aspect, or, where none comes close, a size
    of that aspect with the pixels of the default size. `auto` gives the default size, or for an edit the
    first picture's aspect at the default size's pixels.

    Raises:
        SettingsError: the setting has none of these forms, or the size is not valid.
    """
    default_pixels = trained[0][0] * trained[0][1]
    if setting == "auto":
        if first_image is None:
            return trained[0]
        return size_for_aspect(first_image[0] / first_image[1], default_pixels)
    size = parse_size(setting)
    if size is not None:
        return size
    aspect = parse_aspect(setting)
    if aspect is None:
        raise SettingsError(f"size {setting!r} is not understood", "write it like 2048x2048, 16:9 or auto")
    wanted = size_for_aspect(aspect, default_pixels)
    bucket = nearest_trained(wanted, trained)
    if abs(math.log(aspect) - math.log(bucket[0] / bucket[1])) < BUCKET_TOLERANCE:
        return bucket
    check_size(wanted)
    return wanted


def format_size(size: Size) -> str:
    """(2048, 1536) → '2048x1536'."""
    return f"{size[0]}x{size[1]}"
