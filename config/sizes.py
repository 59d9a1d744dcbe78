"""Picture sizes: valid and trained ones, and how `auto` and `16:9` resolve.

All sizes are (width, height) in pixels.
"""

import math
import re
from collections.abc import Sequence

from config.errors import SettingsError
from config.mentions import mention

Size = tuple[int, int]

TOKEN_PIXELS = 32
"""Side in pixels of the square that one image token covers. The sides of a picture are multiples of it."""

MAX_PIXELS = 4096 * 4096
"""Maximum number of pixels of a picture: four times the default size."""

MAX_ASPECT = 200.0
"""Largest ratio of a picture's sides that the reference implementation accepts."""

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
"""Sizes that SenseNova-U1 was trained on. The first one is the default size."""

INTERLEAVE_SIZES: tuple[Size, ...] = (
    (2048, 1152),
    (1152, 2048),
    (1536, 1536),
    (1888, 1248),
    (1248, 1888),
    (1760, 1312),
    (1312, 1760),
    (2144, 1088),
    (1088, 2144),
    (2592, 864),
    (864, 2592),
)
"""Sizes that SenseNova-U1 was trained on for pictures of interleaved answers. The first one is the default size."""

INTERLEAVE_PIXELS = 512 * 512, 2048 * 1024
"""Least and most pixels of an interleaved answer's pictures if their size follows an input picture."""

BUCKET_TOLERANCE = 0.05
"""Largest difference of logarithms, about 5 %, at which a trained size is used for an aspect ratio."""


def parse_size(text: str) -> Size | None:
    """Parse and check a size `WxH` (also `W×H`, `W*H`); return None if the text has another form.

    Raises:
        SettingsError: a side is not positive or not a multiple of 32, or the picture is too large or too long.
    """
    found = re.fullmatch(r"\s*([+-]?\d{1,30})\s*[x×*X]\s*([+-]?\d{1,30})\s*", text)
    if found is None:
        return None
    size = int(found[1]), int(found[2])
    check_size(size)
    return size


def parse_aspect(text: str) -> float | None:
    """Parse an aspect ratio `W:H` and return width / height; None if the text has another form.

    Raises:
        SettingsError: a side is zero, or the ratio is outside 1:200 to 200:1.
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
    """Raise SettingsError, with the nearest valid size as hint, unless a picture can have this size."""
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


def half_size(size: Size) -> Size:
    """Return half the size of a picture, at which `half_size_until` drafts it.

    Raises:
        SettingsError: half of a side is not a multiple of 32. The hint names the nearest size that has a half.
    """
    step = 2 * TOKEN_PIXELS
    if size[0] % step or size[1] % step:
        near = _shorten((max(step, size[0] // step * step), max(step, size[1] // step * step)))
        raise SettingsError(
            f"`half_size_until`: a picture of {format_size(size)} has no draft of half its size: both sides must be "
            f"multiples of {step}",
            f"use {mention('size', format_size(near))} or `half_size_until=0`",
        )
    return size[0] // 2, size[1] // 2


def nearest_valid(size: Size) -> list[Size]:
    """Return one or two valid sizes near a size, the nearest first."""
    below = tuple(side // TOKEN_PIXELS * TOKEN_PIXELS for side in size)
    above = tuple(-(-side // TOKEN_PIXELS) * TOKEN_PIXELS for side in size)
    rounded = tuple(round(side / TOKEN_PIXELS) * TOKEN_PIXELS for side in size)
    found: list[Size] = []
    for width, height in (rounded, below, above):
        near = _shorten((max(TOKEN_PIXELS, width), max(TOKEN_PIXELS, height)))
        if near not in found and near[0] * near[1] <= MAX_PIXELS:
            found.append(near)
    return found[:2]


def round_side(side: int) -> int:
    """Return the multiple of 32 nearest to a positive side; one that is not positive stays as it is."""
    return side if side <= 0 else max(1, round(side / TOKEN_PIXELS)) * TOKEN_PIXELS


def nearest_trained(size: Size, trained: Sequence[Size]) -> Size:
    """Return the trained size with the nearest aspect ratio, then with the nearest area, on logarithmic scales."""

    def distance(other: Size) -> tuple[float, float]:
        ratio = abs(math.log(size[0] / size[1]) - math.log(other[0] / other[1]))
        area = abs(math.log(size[0] * size[1]) - math.log(other[0] * other[1]))
        return round(ratio, 6), area

    return min(trained, key=distance)


def size_for_aspect(aspect: float, pixels: int) -> Size:
    """Return the size of about `pixels` pixels with this aspect ratio. Sides are rounded to multiples of 32."""
    width = max(TOKEN_PIXELS, round(math.sqrt(pixels * aspect) / TOKEN_PIXELS) * TOKEN_PIXELS)
    height = max(TOKEN_PIXELS, round(math.sqrt(pixels / aspect) / TOKEN_PIXELS) * TOKEN_PIXELS)
    return _shorten((width, height))


def _shorten(size: Size) -> Size:
    """Shorten the longer side of a size, in multiples of 32, to the ratio MAX_ASPECT."""
    limit = int(MAX_ASPECT) * min(size)
    return min(size[0], limit), min(size[1], limit)


def resolve_size(setting: str, trained: Sequence[Size], first_image: Size | None = None) -> Size:
    """Resolve the setting `size` to pixels.

    `WxH` is used as it is. `W:H` resolves to the trained size with that aspect ratio; if none is near, to a size with
    that ratio and as many pixels as the default size. `auto` resolves to the default size. For an edit it keeps the
    default number of pixels and has the aspect ratio of the first input picture.

    Args:
        first_image: size of the first input picture of an edit.

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


def resolve_interleave_size(setting: str, trained: Sequence[Size], first_image: Size | None = None) -> Size:
    """Resolve the setting `size` of an interleaved answer to pixels, as `resolve_size` does.

    With `auto` and an input picture, the result has that picture's size as far as `INTERLEAVE_PIXELS` allow it.

    Args:
        trained: sizes that the checkpoint was trained on for this task.
        first_image: size of the first input picture.

    Raises:
        SettingsError: as for `resolve_size`.
    """
    if setting == "auto" and first_image is not None:
        return _shorten(fit_pixels(first_image, *INTERLEAVE_PIXELS))
    return resolve_size(setting, trained)


def fit_pixels(size: Size, least: int, most: int) -> Size:
    """Return the size nearest to a picture's own whose sides are multiples of 32 and whose area is within limits."""
    width, height = size
    fitted_w, fitted_h = (max(TOKEN_PIXELS, round(side / TOKEN_PIXELS) * TOKEN_PIXELS) for side in size)
    if fitted_w * fitted_h > most:
        scale = math.sqrt(width * height / most)
        fitted_w, fitted_h = (
            max(TOKEN_PIXELS, math.floor(side / scale / TOKEN_PIXELS) * TOKEN_PIXELS) for side in size
        )
    elif fitted_w * fitted_h < least:
        scale = math.sqrt(least / (width * height))
        fitted_w, fitted_h = (math.ceil(side * scale / TOKEN_PIXELS) * TOKEN_PIXELS for side in size)
    return fitted_w, fitted_h


def format_size(size: Size) -> str:
    """Format a size: (2048, 1536) → '2048x1536'."""
    return f"{size[0]}x{size[1]}"
