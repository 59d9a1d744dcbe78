"""Judges of pictures: they compare a picture's pixels with the palette or with the true picture.

A picture may have any size. A prompt leaves something to the seed: the shades of all colours, and members of
`phrases.OPEN`. A judge accepts every picture that the prompt allows.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np
import torch
from PIL import Image

from config.sizes import Size
from model.demo.training.rendering import LARGE, Stage, center, longer_side, shape_mask
from model.demo.training.world import ALONE, COLORS, SHADES, SHAPES, SIDE, Placed, Scene, Style, Thing, shade
from model.inputs.image_tensors import to_image

SAME_COLOR = 0.92
"""Least share of a shape's or a background's pixels whose nearest colour is the requested one."""
LEAST_OVERLAP = 0.85
"""Least intersection over union of a shape with the mask that fits best."""
NEAR = 12
"""Most pixels by which a thing's centre may be misplaced, and by which its longer side may be too long or short."""

ALIKE, ALIKE_TILE, TILE = 25.0, 17.0, 64
"""Least PSNR, in dB, of a picture against the true one: of the whole picture, and of each square with sides of `TILE`
pixels. A missing, wrong or misplaced thing usually gives less (tests/model/demo/test_judging.py)."""

MOST_ERROR = 0.5
"""Largest squared error of a thing, as a share of the error of a picture without it."""
DIFFERENT = 28.0
"""Largest PSNR, in dB, of two pictures that differ to the eye, such as by the shade of their background."""
RIM = 3
"""Width in pixels of a picture's rim, which shows the background only."""

Pixels = np.ndarray
"""(height, width, 3) uint8."""


@dataclass(frozen=True)
class Verdict:
    """A judgement of a picture.

    Attributes:
        look: whether colours and shapes are right.
        position: whether all things are in the right places and of the right sizes.
    """

    look: bool
    position: bool


def judge_shapes(picture: Image.Image, scene: Scene, open_to: Collection[str] = ()) -> Verdict:
    """Judge a picture of shapes by its pixels. Each pixel counts as the nearest shade of the palette.

    Args:
        open_to: what the seed may decide: `place`, `background`, `colors`.
    """
    names = list(COLORS)
    nearest = _nearest_colors(np.asarray(picture.convert("RGB")))
    if "background" in open_to:
        scene = scene.on(names[_most_frequent(np.concatenate([*rims(nearest)], axis=None))])
    if "place" not in open_to:
        return _judge_placed(nearest, scene, open_to)
    (one,) = scene.placed
    verdicts = [_judge_placed(nearest, scene.with_things(Placed(one.thing, place)), open_to) for place in ALONE]
    return next((verdict for verdict in verdicts if verdict.look and verdict.position), verdicts[0])


def _judge_placed(nearest: np.ndarray, scene: Scene, open_to: Collection[str]) -> Verdict:
    """Judge the things of a scene at their places, given the number of each pixel's colour, (height, width)."""
    names, size = list(COLORS), (nearest.shape[1], nearest.shape[0])
    background = names.index(scene.background)
    look = position = True
    shown = np.zeros(nearest.shape, dtype=bool)
    for each in scene.placed:
        thing = (nearest != background) & _region(each, scene, size)
        shown |= _dilated(thing)
        if not thing.any():
            return Verdict(False, False)
        inner = ~_dilated(~thing)  # the outline mixes two colours, and the mixture may be nearest to a third colour
        colors = nearest[inner if inner.any() else thing]
        wanted = _most_frequent(colors) if "colors" in open_to else names.index(str(each.thing.color))
        look &= _share(colors == wanted) >= SAME_COLOR
        top, bottom, left, right = _bounds(thing)
        look &= _best_shape(thing[top:bottom, left:right]) == each.thing.name
        extent = max(bottom - top, right - left)
        position &= _is_near(each, size, (left + right) / 2, (top + bottom) / 2, extent)
    look &= _share(nearest[~shown] == background) >= SAME_COLOR
    return Verdict(bool(look), bool(position))


def is_like(
    picture: Image.Image,
    scene: Scene,
    stage: Stage,
    rather_than: Scene | None = None,
    open_to: Collection[str] = (),
) -> bool:
    """Return whether a picture is a true picture of a scene up to small faults, as a whole and in each part.

    Args:
        rather_than: another scene, such as the one before an edit, that the picture has to resemble less.
        open_to: what the seed may decide: `place`, `background`, `colors`. A shade that is None may be any one.
    """
    pixels = np.asarray(picture.convert("RGB"))
    best, truth = closest(picture, scene, stage, open_to)
    if rather_than is not None and psnr(pixels, closest(picture, rather_than, stage)[1]) >= psnr(pixels, truth):
        return False
    height, width = pixels.shape[:2]
    parts = [(slice(y, y + TILE), slice(x, x + TILE)) for y in range(0, height, TILE) for x in range(0, width, TILE)]
    alike = psnr(pixels, truth) >= ALIKE and all(psnr(pixels[part], truth[part]) >= ALIKE_TILE for part in parts)
    return alike and _shows_each_thing(pixels, best, truth, stage)


def closest(picture: Image.Image, scene: Scene, stage: Stage, open_to: Collection[str] = ()) -> tuple[Scene, Pixels]:
    """Return the scene that a picture shows best among those that are right, and its true pixels.

    Arguments are those of `is_like`. Shades that are None are chosen, and everything that is open.
    """
    pixels = np.asarray(picture.convert("RGB"))
    rim = np.zeros(pixels.shape[:2], dtype=bool)
    for part in rims(rim):
        part[...] = True
    colors = _possible_backgrounds(scene) if "background" in open_to else (scene.background,)
    background, number = _nearest_shade(pixels, rim, colors, scene.shade, scene.style, stage)
    scene = scene.on(background, number)
    found = []
    for placed in _placements(scene, open_to):
        chosen = [_with_shade(pixels, each, scene, stage, open_to) for each in placed]
        candidate = scene.with_things(*chosen)
        found.append((candidate, true_pixels(candidate, stage, picture.size)))
    return max(found, key=lambda pair: psnr(pixels, pair[1]))


def edited_result(before: Scene, after: Scene) -> Scene:
    """Return the result of an edit with the shades of its new colours left open. Everything else keeps its shade."""
    kept = {each.thing for each in before.placed}
    placed = (each if each.thing in kept else replace(each, shade=None) for each in after.placed)
    result = after.with_things(*placed)
    return result if after.background == before.background else result.on(after.background)


def differ(one: Image.Image, other: Image.Image) -> bool:
    """Return whether two pictures of one size differ to the eye."""
    return psnr(np.asarray(one.convert("RGB")), np.asarray(other.convert("RGB"))) < DIFFERENT


def psnr(pixels: Pixels, truth: Pixels) -> float:
    """Return the peak signal-to-noise ratio in dB, at most 100."""
    error = float(np.mean((pixels.astype(np.float64) - truth.astype(np.float64)) ** 2))
    return min(100.0, 10 * math.log10(255**2 / max(error, 1e-12)))


def true_image(scene: Scene, stage: Stage, size: Size = (SIDE, SIDE)) -> Image.Image:
    """Return the true picture of a scene."""
    with torch.inference_mode():
        return to_image(stage.picture(scene, size).cpu())


def true_pixels(scene: Scene, stage: Stage, size: Size = (SIDE, SIDE)) -> Pixels:
    return np.asarray(true_image(scene, stage, size))


def _shows_each_thing(pixels: Pixels, scene: Scene, truth: Pixels, stage: Stage) -> bool:
    """Return whether a picture resembles the truth more than a picture that lacks one of the things.

    A light thing, such as a cloud, hardly differs from a light background.
    """
    size = pixels.shape[1], pixels.shape[0]
    for index in range(len(scene.placed)):
        others = scene.placed[:index] + scene.placed[index + 1 :]
        lacking = true_pixels(scene.with_things(*others), stage, size).astype(int)
        error, missing = (np.square(each - truth.astype(int)) for each in (pixels.astype(int), lacking))
        where = missing.any(axis=-1)
        if error[where].mean() > MOST_ERROR * missing[where].mean():
            return False
    return True


def _possible_backgrounds(scene: Scene) -> tuple[str, ...]:
    """Return the colours of a background on which all shapes of a scene are visible."""
    return tuple(color for color in COLORS if scene.on(color).is_visible)


def _placements(scene: Scene, open_to: Collection[str]) -> Iterator[Sequence[Placed]]:
    """Yield the things of a scene at each place that is right."""
    if "place" not in open_to:
        yield scene.placed
        return
    (one,) = scene.placed
    for place in ALONE:
        yield (replace(one, place=place),)


def _with_shade(pixels: Pixels, placed: Placed, scene: Scene, stage: Stage, open_to: Collection[str]) -> Placed:
    """Return a thing with the colour and the shade that the picture has at its place."""
    if placed.thing.name not in SHAPES:
        return placed
    where = _core(placed, stage, (pixels.shape[1], pixels.shape[0]))
    colors = tuple(COLORS) if "colors" in open_to or placed.thing.color is None else (placed.thing.color,)
    color, number = _nearest_shade(pixels, where, colors, placed.shade, scene.style, stage)
    return Placed(Thing(placed.thing.name, color), placed.place, number)


def _nearest_shade(
    pixels: Pixels, where: np.ndarray, colors: Sequence[str], number: int | None, style: Style, stage: Stage
) -> tuple[str, int]:
    """Return the colour and the shade that some pixels of a picture resemble most.

    Args:
        where: the pixels, (height, width) bool.
        number: the only right shade; None for any.
    """
    numbers = range(SHADES) if number is None else (number,)
    size = pixels.shape[1], pixels.shape[0]
    errors = {
        (color, each): float(np.abs(pixels[where].astype(int) - _flat(color, each, style, stage, size)[where]).mean())
        for color in colors
        for each in numbers
    }
    return min(errors, key=lambda pair: errors[pair])


@lru_cache(maxsize=100)
def _flat(color: str, number: int, style: Style, stage: Stage, size: Size) -> np.ndarray:
    """Return an empty picture."""
    return true_pixels(Scene(color, style=style, shade=number), stage, size).astype(np.int16)


@lru_cache(maxsize=100)
def _core(placed: Placed, stage: Stage, size: Size) -> np.ndarray:
    """Return the pixels that a shape covers completely, (height, width) bool."""
    black = Placed(Thing(placed.thing.name, "black"), placed.place, 0)
    covered = true_pixels(Scene("white", (black,), shade=0), stage, size)
    return np.all(covered == shade("black", 0), axis=-1)


def rims(values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return views of the four rims of a picture."""
    return values[:RIM], values[-RIM:], values[:, :RIM], values[:, -RIM:]


def _nearest_colors(pixels: Pixels) -> np.ndarray:
    """Return the number of each pixel's colour, (height, width)."""
    palette = np.array([shade(color, number) for color in COLORS for number in range(SHADES)], dtype=np.float32)
    # The squared distance without the pixel's own square, which is the same for all shades.
    distances = (palette**2).sum(axis=1) - 2 * pixels.reshape(-1, 3).astype(np.float32) @ palette.T
    return distances.argmin(axis=-1).reshape(pixels.shape[:2]) // SHADES


def _most_frequent(numbers: np.ndarray) -> int:
    return int(np.bincount(numbers.ravel()).argmax())


def _region(placed: Placed, scene: Scene, size: Size) -> np.ndarray:
    """Return where to look for a thing: in the whole picture, or in its part of it if there are several things."""
    width, height = size
    region = np.ones((height, width), dtype=bool)
    if len(scene.placed) == 1:
        return region
    if placed.place in ("left", "lower left"):
        region[:, width // 2 :] = False
    elif placed.place in ("right", "lower right"):
        region[:, : width // 2] = False
    if placed.place == "top":
        region[height // 2 :] = False
    elif placed.place in ("bottom", "lower left", "lower right"):
        region[: height // 2] = False
    return region


def _dilated(mask: np.ndarray) -> np.ndarray:
    """Return a mask that is larger by two pixels in each of the four directions."""
    grown = mask.copy()
    for shift in (1, 2):
        grown[shift:] |= mask[:-shift]
        grown[:-shift] |= mask[shift:]
        grown[:, shift:] |= mask[:, :-shift]
        grown[:, :-shift] |= mask[:, shift:]
    return grown


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of a mask's set pixels; bottom and right are exclusive."""
    rows, columns = np.nonzero(mask)
    return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1


def _share(flags: np.ndarray) -> float:
    return float(flags.mean()) if flags.size else 1.0


def _best_shape(mask: np.ndarray) -> str | None:
    """Return the shape whose mask, stretched to the same size, overlaps most; None below `LEAST_OVERLAP`."""
    found = _fitted(mask)
    overlaps = {}
    for name in SHAPES:
        true = _fitted_shape(name)
        overlaps[name] = (found & true).sum() / (found | true).sum()
    best = max(overlaps, key=lambda name: overlaps[name])
    return best if overlaps[best] >= LEAST_OVERLAP else None


@cache
def _fitted_shape(name: str) -> np.ndarray:
    true = shape_mask(name, LARGE) > 127
    top, bottom, left, right = _bounds(true)
    return _fitted(true[top:bottom, left:right])


def _fitted(mask: np.ndarray) -> np.ndarray:
    """Return a mask stretched to a square of 64 pixels."""
    return np.asarray(Image.fromarray(mask).resize((64, 64), Image.Resampling.NEAREST))


def _is_near(placed: Placed, size: Size, x: float, y: float, extent: float) -> bool:
    """Return whether a thing's bounding box has about the place and size of the true one."""
    side = longer_side(placed.place, size)
    top, bottom, left, right = _bounds(shape_mask(placed.thing.name, side) > 127)
    middle_x, middle_y = center(placed.place, size)
    true_x, true_y = middle_x - side / 2 + (left + right) / 2, middle_y - side / 2 + (top + bottom) / 2
    true_extent = max(bottom - top, right - left)
    return bool(max(abs(x - true_x), abs(y - true_y), abs(extent - true_extent)) <= NEAR)
