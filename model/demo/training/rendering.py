"""Rendering: the true pictures of scenes, composed of shape masks and object drawings on any device."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from model.demo.training.world import COLORS, OBJECTS, PLACES, SHAPES, SIDE, Place, Scene

ATLAS = Path(__file__).parent / "objects" / "objects.png"
"""The drawings of the objects in the order of OBJECTS: `ATLAS_COLUMNS` per row, each in a square of `ATLAS_CELL`
pixels."""
ATLAS_CELL, ATLAS_COLUMNS = 136, 8

LARGE, SMALL = 184, 104
"""Longer side of a thing, in pixels."""
CENTERS: dict[Place, tuple[int, int]] = {
    "large": (128, 128),
    "small": (128, 128),
    "left": (64, 128),
    "right": (192, 128),
    "top": (128, 64),
    "bottom": (128, 192),
}
"""(x, y) of a thing's centre. They are whole tokens of 32 pixels apart, so a small thing has the same pixels in each of
its tokens at every place."""

SUPERSAMPLING = 8

SceneCode = tuple[int, int, int, int, int, int, int]
"""A scene as numbers: background, then thing, place and colour of the first and of the second thing. Thing 0 means no
thing."""


def scene_code(scene: Scene) -> SceneCode:
    """Return a scene's code for `Stage.render`. The code does not contain the style."""
    names = ("", *SHAPES, *OBJECTS)
    colors = list(COLORS)
    code = [colors.index(scene.background)]
    for each in scene.placed:
        color = colors.index(each.thing.color) if each.thing.color else 0
        code += [names.index(each.thing.name), PLACES.index(each.place), color]
    code += [0] * (7 - len(code))
    return (code[0], code[1], code[2], code[3], code[4], code[5], code[6])


class Stage:
    """A renderer of scenes in batches, on one device. It has a sprite for each thing and place."""

    def __init__(self, device: torch.device) -> None:
        count = 1 + len(SHAPES) + len(OBJECTS)
        alpha = np.zeros((count, len(PLACES), SIDE, SIDE), dtype=np.uint8)
        color = np.zeros((1 + len(OBJECTS), len(PLACES), 3, SIDE, SIDE), dtype=np.uint8)
        for place_index, place in enumerate(PLACES):
            side = LARGE if place == "large" else SMALL
            for index, name in enumerate(SHAPES, start=1):
                alpha[index, place_index] = _at(place, shape_mask(name, side))
            for index, drawing in enumerate(object_drawings()):
                sprite = np.array(_scaled(drawing, side))
                for channel in range(3):
                    color[1 + index, place_index, channel] = _at(place, sprite[..., channel])
                alpha[1 + len(SHAPES) + index, place_index] = _at(place, sprite[..., 3])
        self._alpha = torch.from_numpy(alpha).to(device)
        self._color = torch.from_numpy(color).to(device)  # premultiplied by alpha
        self._palette = torch.tensor(list(COLORS.values()), dtype=torch.float32, device=device)

    def render(self, codes: Tensor) -> Tensor:
        """Render scene codes (B, 7) int64 → pictures (B, 3, 256, 256), float32 in −1..1."""
        picture = self._palette[codes[:, 0], :, None, None]
        for first in (1, 4):
            thing, place, shape_color = codes[:, first], codes[:, first + 1], codes[:, first + 2]
            alpha = self._alpha[thing, place, None].float() / 255
            drawing = self._color[(thing - len(SHAPES)).clamp(min=0), place].float()
            is_shape = (thing <= len(SHAPES))[:, None, None, None]
            flat = self._palette[shape_color, :, None, None] * alpha
            picture = picture * (1 - alpha) + torch.where(is_shape, flat, drawing)
        return picture / 127.5 - 1

    def picture(self, scene: Scene) -> Tensor:
        """Return the true picture of a scene in its style, (1, 3, 256, 256) float32 in −1..1."""
        codes = torch.tensor([scene_code(scene)], device=self._palette.device)
        return STYLES[scene.style](self.render(codes))


def grayscale(pictures: Tensor) -> Tensor:
    """Return the ITU-R BT.601 luma in all three channels: (B, 3, H, W) → same shape."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=pictures.device)[:, None, None]
    return (pictures * weights).sum(dim=1, keepdim=True).expand_as(pictures)


def oil_painting(pictures: Tensor) -> Tensor:
    """Add wavy outlines, diagonal brush strokes and a darker rim: (B, 3, 256, 256) → same shape.

    The texture is smooth and the same for every picture. A network does not learn a texture that is noisy or depends
    on the things in the picture.
    """
    device = pictures.device
    line = (torch.arange(SIDE, device=device) + 0.5) / SIDE * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    waver = 0.022
    grid = torch.stack([x + waver * torch.sin(16 * y + 3 * x), y + waver * torch.sin(14 * x - 4 * y)], dim=-1)
    bent = F.grid_sample(pictures, grid.expand(len(pictures), -1, -1, -1), padding_mode="border", align_corners=False)
    softened = F.avg_pool2d(F.pad(bent, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    strokes = 0.09 * torch.sin(36 * (x + y) + 2 * torch.sin(6 * (x - y)))
    rim = 0.45 * ((x.square() + y.square()) / 2).square()
    warm = torch.tensor([0.04, 0.0, -0.08], device=device)[:, None, None]
    return (softened * 0.9 + strokes - rim + warm).clamp(-1, 1)


def plain(pictures: Tensor) -> Tensor:
    """Return the pictures unchanged."""
    return pictures


STYLES: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": plain,
    "grayscale": grayscale,
    "oil painting": oil_painting,
}


def object_drawings() -> list[Image.Image]:
    """Return the cropped drawings of the objects in the order of OBJECTS, RGBA with colours premultiplied by alpha."""
    atlas = Image.open(ATLAS).convert("RGBA")
    drawings = []
    for index in range(len(OBJECTS)):
        left, top = index % ATLAS_COLUMNS * ATLAS_CELL, index // ATLAS_COLUMNS * ATLAS_CELL
        cell = atlas.crop((left, top, left + ATLAS_CELL, top + ATLAS_CELL))
        drawings.append(cell.crop(cell.getchannel("A").getbbox()).convert("RGBa"))
    return drawings


def shape_mask(name: str, side: int) -> np.ndarray:
    """Return the coverage of a shape that is `side` pixels wide: (side, side) uint8."""
    big = side * SUPERSAMPLING
    mask = Image.new("L", (big, big))
    pen = ImageDraw.Draw(mask)
    match name:
        case "circle":
            pen.ellipse((0, 0, big - 1, big - 1), fill=255)
        case "ring":
            pen.ellipse((0, 0, big - 1, big - 1), fill=255)
            pen.ellipse((big * 0.27, big * 0.27, big * 0.73, big * 0.73), fill=0)
        case "square":
            pen.rectangle((big * 0.08, big * 0.08, big * 0.92, big * 0.92), fill=255)
        case _:
            pen.polygon([(x * big, y * big) for x, y in OUTLINES[name]], fill=255)
    return np.array(mask.resize((side, side), Image.Resampling.BOX))


def _star() -> list[tuple[float, float]]:
    corners = []
    for index in range(10):
        radius, angle = (0.52 if index % 2 == 0 else 0.21), math.pi * (index / 5 - 0.5)
        corners.append((0.5 + radius * math.cos(angle), 0.54 + radius * math.sin(angle)))
    return corners


def _heart() -> list[tuple[float, float]]:
    """Return corners of the curve (16 sin³ a, 13 cos a − 5 cos 2a − 2 cos 3a − cos 4a)."""
    corners = []
    for index in range(256):
        a = 2 * math.pi * index / 256
        y = 13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)
        corners.append((0.5 + 16 * math.sin(a) ** 3 / 34, 0.46 - y / 34))
    return corners


OUTLINES: dict[str, Sequence[tuple[float, float]]] = {
    "triangle": [(0.5, 0.06), (0.98, 0.9), (0.02, 0.9)],
    "diamond": [(0.5, 0.0), (0.86, 0.5), (0.5, 1.0), (0.14, 0.5)],
    "cross": [
        (0.34, 0.04), (0.66, 0.04), (0.66, 0.34), (0.96, 0.34), (0.96, 0.66), (0.66, 0.66),
        (0.66, 0.96), (0.34, 0.96), (0.34, 0.66), (0.04, 0.66), (0.04, 0.34), (0.34, 0.34),
    ],
    "star": _star(),
    "heart": _heart(),
}  # fmt: skip
"""Corners of shapes in a unit square; y points down."""


def _scaled(drawing: Image.Image, side: int) -> Image.Image:
    scale = side / max(drawing.size)
    size = (round(drawing.width * scale), round(drawing.height * scale))
    # Colours are premultiplied by alpha. Bicubic resizing may leave a colour above its alpha, and it would glow.
    scaled = np.array(drawing.resize(size, Image.Resampling.BICUBIC))
    scaled[..., :3] = np.minimum(scaled[..., :3], scaled[..., 3:])
    return Image.fromarray(scaled, "RGBa")


def _at(place: Place, values: np.ndarray) -> np.ndarray:
    """Put a sprite's values (h, w) into an empty picture, centred at the place."""
    x, y = CENTERS[place]
    height, width = values.shape
    left, top = x - width // 2, y - height // 2
    picture = np.zeros((SIDE, SIDE), dtype=np.uint8)
    picture[top : top + height, left : left + width] = values
    return picture
