"""Variety: what a prompt leaves open, and how the noise of a picture decides it.

A picture's background shade, the exact place of its things and their size are open in most prompts, and often the
background and the colors, too. If such choices were random in training, then the network could only predict their mean
at time 0, and with few sampling steps the picture stays near that mean: gray, or blurred. So each choice is a function of
the noise that the picture starts from: of the noise's mean products with a few patterns. The network learns to read
them, and every seed leads to a definite picture from the first step on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from model.demo.training.layouts import FLIPS, LAYOUTS, SHIFTS, SIZES, layout_of
from model.demo.training.world import COLORS, OBJECTS, SHAPES, Scene, Thing, held_out_background

OPEN = len(COLORS)
"""Index of a color that the prompt leaves open."""
DARKER, LIGHTER = 0.86, 0.16
"""Factor of a darker shade of a background, and the share of white in a lighter one."""
SHADES = 3
FEATURES = 11
"""Numbers that decide a picture: 3 for the background, 3 for the things' colors, shade, size, flip, down, across."""
TERCILE, LARGE_SHARE = 0.4307, 0.25
"""A normal number is below −0.4307, between, or above 0.4307 with equal probability; 60 % are below 0.25."""

SceneCode = tuple[int, int, int, int, int, int, int, int]
"""Background (or OPEN), layout, thing and color of the first and the second thing, size (0 large, 1 medium, 2 open),
whether the place is open. Thing 0 means no thing."""
CODE_LENGTH = 8
NAMES = ("", *SHAPES, *OBJECTS)


@dataclass(frozen=True)
class Freedom:
    """What the words for a scene leave open."""

    background: bool = False
    colors: bool = False
    size: bool = True
    place: bool = True


def scene_code(scene: Scene, freedom: Freedom | None = None) -> SceneCode:
    """Return the code of a scene, without its style."""
    freedom, colors = freedom or Freedom(), list(COLORS)
    code = [OPEN if freedom.background else colors.index(scene.background), LAYOUTS.index(layout_of(scene))]
    for each in scene.placed:
        color = each.thing.color
        code += [NAMES.index(each.thing.name), 0 if not color else OPEN if freedom.colors else colors.index(color)]
    code += [0] * (6 - len(code)) + [2 if freedom.size else 0, int(freedom.place)]
    return tuple(code)  # type: ignore[return-value]


@dataclass(frozen=True)
class Variant:
    """Everything about a picture that its scene does not say. The default is the plainest one.

    Attributes:
        shade: of the background: 0 plain, 1 darker, 2 lighter.
        size, down, across, flip: see `layouts.spots`.
    """

    shade: int = 0
    size: int = 0
    down: int = 0
    across: int = 0
    flip: int = 0

    @staticmethod
    def any(random: Random) -> "Variant":
        """Return a random variant."""
        return Variant(*(random.randrange(count) for count in (SHADES, SIZES, SHIFTS, SHIFTS, FLIPS)))


@dataclass
class Settled:
    """A batch of pictures with all choices made, as indices: (B,) each, and colors of the two things (B, 2)."""

    background: Tensor
    shade: Tensor
    colors: Tensor
    choice: Tensor
    """Row of `layouts.spot_table`."""


def features_of(noise: Tensor, tokens: Tensor) -> Tensor:
    """Return the deciding numbers of noise: normal with deviation 1, (B, FEATURES).

    Args:
        noise: normal noise as tokens, (B, L, 3·32²), channel-last; zeros behind a picture's last token.
        tokens: the pictures' numbers of tokens, (B,).
    """
    line = torch.where(torch.arange(32, device=noise.device) % 16 < 8, 1.0, -1.0)
    ones = torch.ones_like(line)
    patterns = torch.stack([torch.outer(*pair).flatten() for pair in ((ones, ones), (ones, line), (line, ones), (line, line))])
    products = patterns @ noise.float().sum(dim=1).view(-1, 32 * 32, 3)
    return (products / (tokens.float() * 1024).sqrt()[:, None, None]).flatten(1)[:, :FEATURES]


class Settler:
    """The function from codes and deciding numbers to definite pictures, on one device."""

    def __init__(self, device: torch.device) -> None:
        count = len(COLORS)
        self._directions = _directions().to(device)
        things = [[Thing(name, color if name in SHAPES else None) for color in COLORS] for name in NAMES]
        possible = torch.ones(len(NAMES), count, count, dtype=torch.bool)  # thing, its color, background
        for index, colored in enumerate(things[1:], start=1):
            for color, thing in enumerate(colored):
                possible[index, color, list(COLORS).index(held_out_background(thing))] = False
                if thing.color:
                    possible[index, color, color] = False
        self._possible = possible.to(device)
        self._is_gray = torch.tensor([name == "gray" for name in COLORS], device=device)

    def settle(self, codes: Tensor, features: Tensor) -> Settled:
        """Make all choices of codes (B, CODE_LENGTH) int64 by their features (B, FEATURES)."""
        background, first, second = codes[:, 0], codes[:, 2], codes[:, 4]
        known = background.clamp(max=OPEN - 1)
        colors = []
        for thing, color, sign in ((first, codes[:, 3], 1), (second, codes[:, 5], -1)):
            fitting = self._possible[thing, :, known] | (background == OPEN)[:, None]
            drawn = _nearest(sign * features[:, 3:6], self._directions, fitting)
            colors.append(torch.where(color == OPEN, drawn, color))
        fitting = self._possible[first, colors[0]] & self._possible[second, colors[1]] & ~self._is_gray
        drawn = _nearest(features[:, :3], self._directions, fitting)
        is_open = codes[:, 7] == 1
        shade, down, across = (_tercile(features[:, index]) for index in (6, 9, 10))
        size = torch.where(codes[:, 6] == 2, (features[:, 7] > LARGE_SHARE).long(), codes[:, 6])
        down, across = torch.where(is_open, down, 0), torch.where(is_open, across, 0)
        flip = (features[:, 8] > 0).long()
        choice = (((codes[:, 1] * SIZES + size) * SHIFTS + down) * SHIFTS + across) * FLIPS + flip
        return Settled(torch.where(background == OPEN, drawn, known), shade, torch.stack(colors, 1), choice)

    def chosen(self, codes: Tensor, variants: Sequence[Variant]) -> Settled:
        """Return codes without open colors as pictures of these variants."""
        numbers = [(each.shade, each.size, each.down, each.across, each.flip) for each in variants]
        shade, *rest = torch.tensor(numbers, device=codes.device).unbind(dim=1)
        choice = codes[:, 1]
        for number, count in zip(rest, (SIZES, SHIFTS, SHIFTS, FLIPS), strict=True):
            choice = choice * count + number
        return Settled(codes[:, 0], shade, codes[:, [3, 5]], choice)


def shaded_palette() -> Tensor:
    """Return the colors of backgrounds, (colors, SHADES, 3) float32, 0 to 255."""
    plain = torch.tensor(list(COLORS.values()), dtype=torch.float32)
    darker, lighter = plain * DARKER, plain + (255 - plain) * LIGHTER
    white, black = list(COLORS).index("white"), list(COLORS).index("black")
    darker[white], lighter[black] = plain[white] * 0.955, plain[black] + 20  # other shades of these two would be gray
    return torch.stack([plain, darker, lighter], dim=1)


def _directions() -> Tensor:
    """Return a unit vector for each color, evenly spread on the sphere (a Fibonacci lattice), (colors, 3)."""
    count, turn = len(COLORS), math.pi * (3 - math.sqrt(5))
    rows = []
    for index in range(count):
        z = 1 - (2 * index + 1) / count
        radius = math.sqrt(1 - z * z)
        rows.append([radius * math.cos(turn * index), radius * math.sin(turn * index), z])
    return torch.tensor(rows)


def _nearest(features: Tensor, directions: Tensor, fitting: Tensor) -> Tensor:
    """Return the index of the direction nearest to each row of features among those that fit, (B,)."""
    return (features @ directions.T).masked_fill(~fitting, -torch.inf).argmax(dim=1)


def _tercile(features: Tensor) -> Tensor:
    """Return 1 for low, 0 for middle and 2 for high numbers."""
    return (features < -TERCILE).long() + 2 * (features > TERCILE).long()
