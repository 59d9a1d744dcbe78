"""Rendering: the true pictures of scenes, composed of shape masks and object drawings on any device."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from config.sizes import Size
from model.demo.training.world import COLORS, OBJECTS, PLACES, SHADES, SHAPES, SIDE, Place, Scene, shade

ATLAS = Path(__file__).parent / "objects" / "objects.png"
"""The drawings of the objects in the order of OBJECTS: `ATLAS_COLUMNS` per row, each in a square of `ATLAS_CELL`
pixels."""
ATLAS_CELL, ATLAS_COLUMNS = 136, 8

LARGE, SMALL = 184, 104
"""Longer side of a thing, in pixels, in pictures whose sides have at least `WIDE_ENOUGH` pixels."""
WIDE_ENOUGH = 224
REDUCED = 0.75
"""Factor of both in pictures with a shorter side. There are only two scales, so that a thing has the same pixels in
pictures of several sizes."""

SUPERSAMPLING = 8

MOST_THINGS = 3
CODE_LENGTH = 1 + 3 * MOST_THINGS

SceneCode = tuple[int, ...]
"""A scene as `CODE_LENGTH` numbers: the background's colour, then thing, place and colour of each thing. Thing 0 means
no thing. A colour's number is its index times `SHADES`, plus its shade. The code does not contain the style."""


def scene_code(scene: Scene) -> SceneCode:
    """Return a scene's code for `Stage.render`."""
    names = ("", *SHAPES, *OBJECTS)
    code = [_color_number(scene.background, scene.shade)]
    for each in scene.placed:
        color = _color_number(each.thing.color, each.shade) if each.thing.color else 0
        code += [names.index(each.thing.name), PLACES.index(each.place), color]
    return (*code, *[0] * (CODE_LENGTH - len(code)))


def _color_number(color: str, shade_number: int | None) -> int:
    return list(COLORS).index(color) * SHADES + (shade_number or 0)


def scale(size: Size) -> float:
    """Return the factor of `LARGE` and `SMALL` in pictures of a size."""
    return 1.0 if min(size) >= WIDE_ENOUGH else REDUCED


def longer_side(place: Place, size: Size) -> int:
    """Return the longer side of a thing at a place, in pixels."""
    return round(scale(size) * (LARGE if place == "large" else SMALL))


def center(place: Place, size: Size) -> tuple[int, int]:
    """Return (x, y) of the centre of a thing at a place.

    In squares of 256 pixels, places are whole tokens of 32 pixels apart, so a small thing has the same pixels in each
    of its tokens at every place.
    """
    width, height = size
    x = {"left": 1, "lower left": 1, "right": 3, "lower right": 3}.get(place, 2)
    y = {"top": 1, "bottom": 3, "lower left": 3, "lower right": 3}.get(place, 2)
    return width * x // 4, height * y // 4


class Stage:
    """A renderer of scenes in batches, on one device. It has the drawings of all things in each size that was used."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._drawings: dict[float, Tensor] = {}
        palette = [shade(color, number) for color in COLORS for number in range(SHADES)]
        self._palette = torch.tensor(palette, dtype=torch.float32, device=device)
        self._centers: dict[Size, Tensor] = {}

    def render(self, codes: Tensor, size: Size = (SIDE, SIDE), things: int = MOST_THINGS) -> Tensor:
        """Render scene codes (B, CODE_LENGTH) int64 → pictures (B, 3, height, width), float32 in −1..1.

        Args:
            things: the largest number of things in a scene. More are not drawn.
        """
        width, height = size
        drawings, centers = self._drawings_of(scale(size)), self._centers_of(size)
        box = round(scale(size) * LARGE)
        picture = self._palette[codes[:, 0], None, None, :].expand(-1, height, width, -1)
        x, y = (torch.arange(side, device=codes.device) for side in size)
        for first in range(1, 1 + 3 * things, 3):
            thing, place, color = codes[:, first], codes[:, first + 1], codes[:, first + 2]
            middle = centers[place]
            column = x - (middle[:, 0, None] - box // 2)
            row = y - (middle[:, 1, None] - box // 2)
            inside = ((row >= 0) & (row < box))[:, :, None] & ((column >= 0) & (column < box))[:, None, :]
            kind = 2 * thing + (place != PLACES.index("large"))
            index = (kind * box)[:, None] + row.clamp(0, box - 1)
            index = index[:, :, None] * box + column.clamp(0, box - 1)[:, None, :]
            values = drawings[index]  # (B, height, width, 4)
            alpha = torch.where(inside, values[..., 3], 0)[..., None].float() / 255
            flat = self._palette[color, None, None, :] * alpha
            is_shape = (thing <= len(SHAPES))[:, None, None, None]
            drawn = torch.where(is_shape, flat, values[..., :3].float() * inside[..., None])
            picture = picture * (1 - alpha) + drawn
        return (picture / 127.5 - 1).permute(0, 3, 1, 2).contiguous()

    def picture(self, scene: Scene, size: Size = (SIDE, SIDE)) -> Tensor:
        """Return the true picture of a scene in its style, (1, 3, height, width) float32 in −1..1."""
        codes = torch.tensor([scene_code(scene)], device=self._device)
        return STYLES[scene.style](self.render(codes, size, len(scene.placed)))

    def _drawings_of(self, factor: float) -> Tensor:
        """Return large and small drawings of all things, each in the middle of a square: (pixels, 4) uint8.

        Colours of objects are premultiplied by alpha. Shapes have alpha only.
        """
        if factor not in self._drawings:
            box = round(factor * LARGE)
            table = np.zeros((1 + len(SHAPES) + len(OBJECTS), 2, box, box, 4), dtype=np.uint8)
            for kind, side in enumerate((box, round(factor * SMALL))):
                for number, name in enumerate(SHAPES, start=1):
                    _paste(table[number, kind, ..., 3], shape_mask(name, side))
                for number, drawing in enumerate(object_drawings(), start=1 + len(SHAPES)):
                    _paste(table[number, kind], np.array(_scaled(drawing, side)))
            self._drawings[factor] = torch.from_numpy(table.reshape(-1, 4)).to(self._device)
        return self._drawings[factor]

    def _centers_of(self, size: Size) -> Tensor:
        if size not in self._centers:
            self._centers[size] = torch.tensor([center(place, size) for place in PLACES], device=self._device)
        return self._centers[size]


def grayscale(pictures: Tensor) -> Tensor:
    """Return the ITU-R BT.601 luma in all three channels: (B, 3, H, W) → same shape."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=pictures.device)[:, None, None]
    return (pictures * weights).sum(dim=1, keepdim=True).expand_as(pictures)


def oil_painting(pictures: Tensor) -> Tensor:
    """Add wavy outlines, diagonal brush strokes and a darker rim: (B, 3, H, W) → same shape.

    The texture is smooth and the same for every picture. A network does not learn a texture that is noisy or depends
    on the things in the picture.
    """
    device = pictures.device
    lines = ((torch.arange(side, device=device) + 0.5) / side * 2 - 1 for side in pictures.shape[-2:])
    y, x = torch.meshgrid(*lines, indexing="ij")
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


def _paste(square: np.ndarray, values: np.ndarray) -> None:
    """Put a drawing's values (h, w, …) into the middle of a square."""
    top, left = square.shape[0] // 2 - values.shape[0] // 2, square.shape[1] // 2 - values.shape[1] // 2
    square[top : top + values.shape[0], left : left + values.shape[1]] = values
