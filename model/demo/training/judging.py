"""Judges of pictures: they compare a picture's pixels with the palette or with the true picture."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from model.demo.training.rendering import CENTERS, LARGE, SMALL, Stage, shape_mask
from model.demo.training.world import COLORS, SHAPES, SIDE, Placed, Scene
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

Pixels = np.ndarray
"""(256, 256, 3) uint8."""


@dataclass(frozen=True)
class Verdict:
    """A judgement of a picture.

    Attributes:
        look: whether colours and shapes are right.
        position: whether all things are in the right places and of the right sizes.
    """

    look: bool
    position: bool


def judge_shapes(picture: Image.Image, scene: Scene) -> Verdict:
    """Judge a picture of shapes by its pixels. Each pixel counts as the nearest colour of the palette."""
    names = list(COLORS)
    nearest = _nearest_colors(np.asarray(picture.convert("RGB")))
    background = names.index(scene.background)
    look = position = True
    shown = np.zeros((SIDE, SIDE), dtype=bool)
    for each in scene.placed:
        region = _region(each, scene)
        thing = (nearest != background) & region
        shown |= _dilated(thing)
        if not thing.any():
            return Verdict(False, False)
        assert each.thing.color
        inner = ~_dilated(~thing)  # the outline mixes two colours, and the mixture may be nearest to a third colour
        look &= _share(nearest[inner if inner.any() else thing] == names.index(each.thing.color)) >= SAME_COLOR
        top, bottom, left, right = _bounds(thing)
        look &= _best_shape(thing[top:bottom, left:right]) == each.thing.name
        position &= _is_near(each, (left + right) / 2, (top + bottom) / 2, max(bottom - top, right - left))
    look &= _share(nearest[~shown] == background) >= SAME_COLOR
    return Verdict(bool(look), bool(position))


def is_like(picture: Image.Image, scene: Scene, stage: Stage, rather_than: Scene | None = None) -> bool:
    """Return whether a picture is the true picture of a scene up to small faults, as a whole and in each part.

    Args:
        rather_than: another scene, such as the one before an edit, that the picture has to resemble less.
    """
    pixels, truth = np.asarray(picture.convert("RGB")), true_pixels(scene, stage)
    if rather_than is not None and psnr(pixels, true_pixels(rather_than, stage)) >= psnr(pixels, truth):
        return False
    parts = [(slice(y, y + TILE), slice(x, x + TILE)) for y in range(0, SIDE, TILE) for x in range(0, SIDE, TILE)]
    return psnr(pixels, truth) >= ALIKE and all(psnr(pixels[part], truth[part]) >= ALIKE_TILE for part in parts)


def psnr(pixels: Pixels, truth: Pixels) -> float:
    """Return the peak signal-to-noise ratio in dB, at most 100."""
    error = float(np.mean((pixels.astype(np.float64) - truth.astype(np.float64)) ** 2))
    return min(100.0, 10 * math.log10(255**2 / max(error, 1e-12)))


def true_image(scene: Scene, stage: Stage) -> Image.Image:
    """Return the true picture of a scene."""
    with torch.inference_mode():
        return to_image(stage.picture(scene).cpu())


def true_pixels(scene: Scene, stage: Stage) -> Pixels:
    return np.asarray(true_image(scene, stage))


def _nearest_colors(pixels: Pixels) -> np.ndarray:
    palette = np.array(list(COLORS.values()), dtype=np.float32)
    distances = ((pixels[:, :, None].astype(np.float32) - palette) ** 2).sum(axis=-1)
    return distances.argmin(axis=-1)


def _region(placed: Placed, scene: Scene) -> np.ndarray:
    """Return where to look for a thing: in the whole picture, or in its half if there are two things."""
    region = np.ones((SIDE, SIDE), dtype=bool)
    if len(scene.placed) == 1:
        return region
    half = SIDE // 2
    match placed.place:
        case "left":
            region[:, half:] = False
        case "right":
            region[:, :half] = False
        case "top":
            region[half:] = False
        case _:
            region[:half] = False
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
    side = 64
    found = np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))
    overlaps = {}
    for name in SHAPES:
        true = shape_mask(name, LARGE) > 127
        top, bottom, left, right = _bounds(true)
        cropped = true[top:bottom, left:right]
        fitted = np.asarray(Image.fromarray(cropped).resize((side, side), Image.Resampling.NEAREST))
        overlaps[name] = (found & fitted).sum() / (found | fitted).sum()
    best = max(overlaps, key=lambda name: overlaps[name])
    return best if overlaps[best] >= LEAST_OVERLAP else None


def _is_near(placed: Placed, x: float, y: float, extent: float) -> bool:
    """Return whether a thing's bounding box has about the place and size of the true one."""
    side = LARGE if placed.place == "large" else SMALL
    top, bottom, left, right = _bounds(shape_mask(placed.thing.name, side) > 127)
    middle_x, middle_y = CENTERS[placed.place]
    true_x, true_y = middle_x - side / 2 + (left + right) / 2, middle_y - side / 2 + (top + bottom) / 2
    true_extent = max(bottom - top, right - left)
    return bool(max(abs(x - true_x), abs(y - true_y), abs(extent - true_extent)) <= NEAR)
