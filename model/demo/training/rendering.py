"""Rendering: the true pictures of scenes, composed of shape masks and object drawings on any device."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from model.demo.training.layouts import GRIDS, SIDES, SLOTS, SQUARE, Grid, grid_tables, pixels, spot_table
from model.demo.training.variety import Settled, Settler, Variant, scene_code, shaded_palette
from model.demo.training.world import COLORS, OBJECTS, SHAPES, Scene, Style
from model.network.flow import picture_to_tokens, tokens_to_picture

ATLAS = Path(__file__).parent / "objects" / "objects.png"
"""The drawings of the objects in the order of OBJECTS: `ATLAS_COLUMNS` per row, each in a square of `ATLAS_CELL`
pixels."""
ATLAS_CELL, ATLAS_COLUMNS = 136, 8

BOX = 6
"""Side in tokens of the square that holds a thing's drawing, with the thing's centre in its middle."""

SUPERSAMPLING = 8


class Stage:
    """A renderer of scenes in batches, for pictures of some sizes, on one device.

    It has a drawing of each thing in each size, cut into tokens. A picture's tokens are gathered from them.
    """

    def __init__(self, device: torch.device, grids: Sequence[Grid] = GRIDS) -> None:
        self.grids, self.device = tuple(grids), device
        rows, columns, self.length = grid_tables(self.grids)
        self._rows, self._columns = (torch.from_numpy(each).to(device) for each in (rows, columns))
        self._bank = torch.from_numpy(_token_bank()).to(device)  # objects' colors are premultiplied by alpha
        self._palette = torch.tensor(list(COLORS.values()), dtype=torch.float32, device=device)
        self._backgrounds = shaded_palette().to(device)
        self._spots = torch.from_numpy(np.stack([spot_table(grid) for grid in self.grids])).long().to(device)
        self._pixels = torch.tensor([pixels(grid) for grid in self.grids], device=device)
        self.settler = Settler(device)
        # Oil paintings are painted on a canvas with one more row and column than the largest picture has. Only the
        # background is there, so the brush may reach beyond the picture's edge.
        self._canvas = max(grid[0] for grid in self.grids) + 1, max(grid[1] for grid in self.grids) + 1

    def tokens_of(self, grids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return row and column of each token (B, length), −1 for padding, and the numbers of tokens (B,)."""
        rows = self._rows[grids]
        return rows, self._columns[grids], (rows >= 0).sum(dim=1)

    def render(self, codes: Tensor, settled: Settled, grids: Tensor, style: Style = "plain") -> Tensor:
        """Render pictures as tokens, (B, length, 3·32²) channel-last, float32 in −1..1.

        Args:
            codes: scene codes (B, CODE_LENGTH) int64.
            settled: the choices that were made for them.
            grids: index in `grids` of each picture's size, (B,).
        """
        if style != "oil painting":
            tokens = self._gathered(codes, settled, grids, self._rows[grids], self._columns[grids])
            return (grayscale(tokens) if style == "grayscale" else tokens).permute(0, 1, 3, 4, 2).flatten(2)
        height, width = self._canvas
        numbers = torch.arange(height * width, device=codes.device).expand(len(codes), -1)
        canvas = self._gathered(codes, settled, grids, numbers // width, numbers % width)
        picture = tokens_to_picture(canvas.permute(0, 1, 3, 4, 2).flatten(2), height, width)
        painted = picture_to_tokens(oil_painting(picture, self._pixels[grids]))
        where = (self._rows[grids] * width + self._columns[grids]).clamp(min=0)
        return painted.gather(1, where[..., None].expand(-1, -1, painted.shape[-1]))

    def _gathered(self, codes: Tensor, settled: Settled, grids: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the tokens (B, L, 3, 32, 32) at rows and columns (B, L) of the pictures."""
        things = codes[:, [2, 4]]
        pair = codes[:, 4] > 0
        spots = self._spots[grids, settled.choice]
        picture = self._backgrounds[settled.background, settled.shade][:, None, :, None, None]
        for slot in range(SLOTS):
            second = pair & (slot == 1)
            thing = torch.where(second, things[:, 1], things[:, 0])[:, None]
            color = torch.where(second, settled.colors[:, 1], settled.colors[:, 0])
            size, y, x = (spots[:, slot, index, None] for index in range(3))
            row, column = rows - y + BOX // 2, columns - x + BOX // 2
            inside = (size >= 0) & (row >= 0) & (row < BOX) & (column >= 0) & (column < BOX)
            number = ((thing * len(SIDES) + size) * BOX + row) * BOX + column
            drawn = self._bank[torch.where(inside, number, 0)].float()
            alpha = drawn[:, :, 3:] / 255
            flat = self._palette[color][:, None, :, None, None] * alpha
            is_shape = (thing <= len(SHAPES))[..., None, None, None]
            picture = picture * (1 - alpha) + torch.where(is_shape, flat, drawn[:, :, :3])
        return picture / 127.5 - 1

    def picture(self, scene: Scene, variant: Variant | None = None, grid: Grid = SQUARE) -> Tensor:
        """Return the true picture of a scene in its style, (1, 3, H, W) float32 in −1..1."""
        device = self._palette.device
        codes = torch.tensor([scene_code(scene)], device=device)
        index = torch.tensor([self.grids.index(grid)], device=device)
        tokens = self.render(codes, self.settler.chosen(codes, [variant or Variant()]), index, scene.style)
        return tokens_to_picture(tokens[:, : grid[0] * grid[1]], *grid)


def _token_bank() -> np.ndarray:
    """Return all drawings as tokens: (things · sizes · BOX², 4, 32, 32) uint8, the first ones empty."""
    bank = np.zeros((1 + len(SHAPES) + len(OBJECTS), len(SIDES), 4, 32 * BOX, 32 * BOX), dtype=np.uint8)
    drawings = object_drawings()
    for size, side in enumerate(SIDES):
        for index, name in enumerate(SHAPES, start=1):
            bank[index, size, 3] = _centred(shape_mask(name, side))
        for index, drawing in enumerate(drawings, start=1 + len(SHAPES)):
            sprite = np.array(_scaled(drawing, side))
            for channel in range(4):
                bank[index, size, channel] = _centred(sprite[..., channel])
    cut = bank.reshape(-1, 4, BOX, 32, BOX, 32).transpose(0, 2, 4, 1, 3, 5)
    return np.ascontiguousarray(cut).reshape(-1, 4, 32, 32)


def grayscale(tokens: Tensor) -> Tensor:
    """Return the ITU-R BT.601 luma in all three channels: (B, L, 3, 32, 32) → same shape."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=tokens.device)[:, None, None]
    return (tokens * weights).sum(dim=2, keepdim=True).expand_as(tokens)


def oil_painting(canvas: Tensor, sizes: Tensor) -> Tensor:
    """Add wavy outlines, diagonal brush strokes and a darker rim: (B, 3, H, W) → same shape.

    The texture is smooth and the same for every picture. A network does not learn a texture that is noisy or depends
    on the things in the picture.

    Args:
        sizes: (width, height) of the picture in the canvas's upper left corner, (B, 2).
    """
    device, (height, width) = canvas.device, canvas.shape[-2:]
    # The texture counts pixels from the upper left corner, in units of half a side of a 256×256 picture.
    v, u = ((torch.arange(side, device=device) + 0.5) / 128 - 1 for side in (height, width))
    y, x = torch.meshgrid(v, u, indexing="ij")
    waver = 0.022
    bent_x, bent_y = x + waver * torch.sin(16 * y + 3 * x), y + waver * torch.sin(14 * x - 4 * y)
    where = torch.stack([(bent_x + 1) * 256 / width - 1, (bent_y + 1) * 256 / height - 1], dim=-1)
    bent = F.grid_sample(canvas, where.expand(len(canvas), -1, -1, -1), padding_mode="border", align_corners=False)
    softened = F.avg_pool2d(F.pad(bent, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    strokes = 0.09 * torch.sin(36 * (x + y) + 2 * torch.sin(6 * (x - y)))
    across = (torch.arange(width, device=device) + 0.5) / sizes[:, 0, None] * 2 - 1
    down = (torch.arange(height, device=device) + 0.5) / sizes[:, 1, None] * 2 - 1
    rim = 0.45 * ((across.square()[:, None, None, :] + down.square()[:, None, :, None]) / 2).square()
    warm = torch.tensor([0.04, 0.0, -0.08], device=device)[:, None, None]
    return (softened * 0.9 + strokes - rim + warm).clamp(-1, 1)


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


def _centred(values: np.ndarray) -> np.ndarray:
    """Put a drawing's values (h, w) into the middle of an empty box."""
    height, width = values.shape
    top, left = 16 * BOX - height // 2, 16 * BOX - width // 2
    box = np.zeros((32 * BOX, 32 * BOX), dtype=np.uint8)
    box[top : top + height, left : left + width] = values
    return box
