"""Judges of pictures: they compare a picture's pixels with the palette or with the true picture."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from model.demo.training.layouts import LARGE, SIDES, Grid, choices, layout_of, spots, things_of
from model.demo.training.rendering import Stage, shape_mask
from model.demo.training.variety import SHADES, Freedom, Variant, scene_code, shaded_palette
from model.demo.training.world import COLORS, SHAPES, Placed, Scene
from model.inputs.image_tensors import to_image
from model.network.flow import tokens_to_picture

SAME_COLOR = 0.92
"""Least share of a shape's or a background's pixels whose nearest colour is the requested one."""
LEAST_OVERLAP = 0.85
"""Least intersection over union of a shape with the mask that fits best."""
NEAR = 12
"""Most pixels by which a thing's centre may be misplaced, and by which its longer side may be too long or short."""

ALIKE, ALIKE_TILE, TILE = 25.0, 17.0, 64
"""Least PSNR, in dB, of a picture against the true one: of the whole picture, and of each square with sides of `TILE`
pixels. A missing, wrong or misplaced thing usually gives less (tests/model/demo/test_judging.py)."""

CANDIDATES = 36
"""True pictures that are rendered at once."""

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


@dataclass(frozen=True)
class Match:
    """The true picture that is most like a picture.

    Attributes:
        decibels: the PSNR of the whole picture.
        worst_tile: the lowest PSNR of its tiles.
    """

    scene: Scene
    variant: Variant
    decibels: float
    worst_tile: float

    @property
    def is_like(self) -> bool:
        """Whether the picture is the true one up to small faults, as a whole and in each part."""
        return self.decibels >= ALIKE and self.worst_tile >= ALIKE_TILE


def judge_shapes(picture: Image.Image, scene: Scene) -> Verdict:
    """Judge a picture of one or two shapes by its pixels. Each pixel counts as the nearest colour of the palette.

    Any variant of the scene is right.
    """
    names = list(COLORS)
    nearest = _nearest_colors(np.asarray(picture.convert("RGB")))
    background = names.index(scene.background)
    look = position = True
    shown = np.zeros_like(nearest, dtype=bool)
    for slot, each in enumerate(scene.placed):
        region = _region(each, scene, nearest.shape)
        thing = (nearest != background) & region
        shown |= _dilated(thing)
        if not thing.any():
            return Verdict(False, False)
        assert each.thing.color
        inner = ~_dilated(~thing)  # the outline mixes two colours, and the mixture may be nearest to a third colour
        look &= _share(nearest[inner if inner.any() else thing] == names.index(each.thing.color)) >= SAME_COLOR
        top, bottom, left, right = _bounds(thing)
        look &= _best_shape(thing[top:bottom, left:right]) == each.thing.name
        position &= _is_near(scene, slot, grid_of(picture), (left + right) / 2, (top + bottom) / 2, max(bottom - top, right - left))
    look &= _share(nearest[~shown] == background) >= SAME_COLOR
    return Verdict(bool(look), bool(position))


def is_like(
    picture: Image.Image, scene: Scene, stage: Stage, rather_than: Scene | None = None, variant: Variant | None = None
) -> bool:
    """Return whether a picture is a true picture of a scene up to small faults, as a whole and in each part.

    Args:
        rather_than: another scene, such as the one before an edit, that the picture has to resemble less.
        variant: the only variant that is right; None allows each.
    """
    match = closest(picture, scene, stage, variant=variant)
    if rather_than is not None and closest(picture, rather_than, stage, variant=variant).decibels >= match.decibels:
        return False
    return match.is_like


def closest(
    picture: Image.Image, scene: Scene, stage: Stage, freedom: Freedom | None = None, variant: Variant | None = None
) -> Match:
    """Return the true picture of a scene that is most like a picture of one of the stage's sizes.

    Args:
        freedom: what is open besides the shade; None: size and place.
        variant: the only variant to compare with; None: all.
    """
    pixels = np.asarray(picture.convert("RGB"))
    grid, device = grid_of(picture), stage.device
    drawn = torch.from_numpy(pixels.copy()).to(device).float()
    shown = [(each, chosen) for each in _scenes(pixels, scene, freedom or Freedom())
             for chosen in ([variant] if variant else _variants(pixels, each, freedom or Freedom(), grid))]  # fmt: skip
    best_error, best, best_truth = math.inf, 0, drawn
    for start in range(0, len(shown), CANDIDATES):
        part = shown[start : start + CANDIDATES]
        codes = torch.tensor([scene_code(each) for each, _ in part], device=device)
        index = torch.full((len(part),), stage.grids.index(grid), device=device)
        settled = stage.settler.chosen(codes, [chosen for _, chosen in part])
        tokens = stage.render(codes, settled, index, scene.style)[:, : grid[0] * grid[1]]
        truths = (tokens_to_picture(tokens, *grid) * 127.5 + 127.5).clamp(0, 255).permute(0, 2, 3, 1)
        error, number = (truths - drawn).square().mean(dim=(1, 2, 3)).min(dim=0)
        if float(error) < best_error:
            best_error, best, best_truth = float(error), start + int(number), truths[number]
    errors = (best_truth - drawn).square().mean(-1).cpu().numpy()
    height, width = errors.shape
    tiles = [errors[y : y + TILE, x : x + TILE].mean() for y in range(0, height, TILE) for x in range(0, width, TILE)]
    return Match(*shown[best], _decibels(best_error), _decibels(float(max(tiles))))


def _scenes(pixels: Pixels, scene: Scene, freedom: Freedom) -> list[Scene]:
    """Return the scenes that the words allow and whose background the picture has."""
    scenes = [scene]
    if freedom.background:
        color, _ = _background(pixels, list(COLORS))
        scenes = [scene.on(color)]
    if freedom.colors:
        scenes = [
            each.with_things(*(replace(one, thing=replace(one.thing, color=color)) for one in each.placed))
            for each in scenes
            for color in COLORS
            if color != each.background
        ]
    return scenes


def _variants(pixels: Pixels, scene: Scene, freedom: Freedom, grid: Grid) -> Iterator[Variant]:
    """Yield variants with different spots, in the shade of the picture's background."""
    shade = _background(pixels, [scene.background])[1] if scene.style == "plain" else None
    seen = set()
    for size, down, across, flip in choices():
        if (size and not freedom.size) or ((down or across) and not freedom.place):
            continue
        there = tuple(spots(layout_of(scene), grid, size, down, across, flip))
        if there not in seen:
            seen.add(there)
            for each in range(SHADES) if shade is None else [shade]:
                yield Variant(each, size, down, across, flip)


def _background(pixels: Pixels, names: list[str]) -> tuple[str, int]:
    """Return the color among these, and the shade, that is nearest to the median of the picture's border."""
    border = np.concatenate([pixels[:3].reshape(-1, 3), pixels[-3:].reshape(-1, 3), pixels[:, :3].reshape(-1, 3)])
    shades = shaded_palette()[[list(COLORS).index(name) for name in names]].numpy()
    distances = ((shades - np.median(border, axis=0)) ** 2).sum(-1)
    color, shade = np.unravel_index(distances.argmin(), distances.shape)
    return names[color], int(shade)


def grid_of(picture: Image.Image) -> Grid:
    """Return rows and columns of a picture's tokens."""
    return picture.height // 32, picture.width // 32


def psnr(pixels: Pixels, truth: Pixels) -> float:
    """Return the peak signal-to-noise ratio in dB, at most 100."""
    return _decibels(float(np.mean((pixels.astype(np.float64) - truth.astype(np.float64)) ** 2)))


def _decibels(error: float) -> float:
    """Return the PSNR for a mean squared error of 8-bit numbers, at most 100."""
    return min(100.0, 10 * math.log10(255**2 / max(error, 1e-12)))


def true_image(scene: Scene, stage: Stage, variant: Variant | None = None, grid: Grid | None = None) -> Image.Image:
    """Return a true picture of a scene: its plainest variant and the stage's first size, unless others are given."""
    with torch.inference_mode():
        return to_image(stage.picture(scene, variant, grid or stage.grids[0]).cpu())


def true_pixels(scene: Scene, stage: Stage) -> Pixels:
    return np.asarray(true_image(scene, stage))


def _nearest_colors(pixels: Pixels) -> np.ndarray:
    palette = np.array(list(COLORS.values()), dtype=np.float32)
    distances = ((pixels[:, :, None].astype(np.float32) - palette) ** 2).sum(axis=-1)
    return distances.argmin(axis=-1)


def _region(placed: Placed, scene: Scene, shape: tuple[int, ...]) -> np.ndarray:
    """Return where to look for a thing: in the whole picture, or in its half if there are two things."""
    region = np.ones(shape, dtype=bool)
    if len(scene.placed) == 1:
        return region
    middle_y, middle_x = shape[0] // 2, shape[1] // 2
    match placed.place:
        case "left":
            region[:, middle_x:] = False
        case "right":
            region[:, :middle_x] = False
        case "top":
            region[middle_y:] = False
        case _:
            region[:middle_y] = False
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
        true = shape_mask(name, SIDES[LARGE]) > 127
        top, bottom, left, right = _bounds(true)
        cropped = true[top:bottom, left:right]
        fitted = np.asarray(Image.fromarray(cropped).resize((side, side), Image.Resampling.NEAREST))
        overlaps[name] = (found & fitted).sum() / (found | fitted).sum()
    best = max(overlaps, key=lambda name: overlaps[name])
    return best if overlaps[best] >= LEAST_OVERLAP else None


def _is_near(scene: Scene, slot: int, grid: Grid, x: float, y: float, extent: float) -> bool:
    """Return whether a thing's bounding box has about the place and size of a true one in any variant."""
    name = things_of(scene)[slot].thing.name
    for choice in choices():
        size, row, column = spots(layout_of(scene), grid, *choice)[slot]
        side = SIDES[size]
        top, bottom, left, right = _bounds(shape_mask(name, side) > 127)
        true_x, true_y = 32 * column - side / 2 + (left + right) / 2, 32 * row - side / 2 + (top + bottom) / 2
        true_extent = max(bottom - top, right - left)
        if max(abs(x - true_x), abs(y - true_y), abs(extent - true_extent)) <= NEAR:
            return True
    return False
