"""The world of the demo checkpoint: colours, shapes, objects, and the scenes that consist of them."""

import zlib
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from config.sizes import Size

SIDE = 256
"""Width and height of a picture of the default size, in pixels."""
SIZES: tuple[Size, ...] = (
    (SIDE, SIDE),
    (192, 192),
    (320, 320),
    (288, 224),
    (224, 288),
    (320, 224),
    (224, 320),
    (352, 192),
    (192, 352),
)
"""(width, height) of the pictures in the lessons: three squares, then 4:3, 3:4, 3:2, 2:3, 16:9 and 9:16, as near as
multiples of 32 allow with about the area of the first square."""

Place = Literal["large", "small", "left", "right", "top", "bottom", "lower left", "lower right"]
Style = Literal["plain", "grayscale", "oil painting"]
Kind = Literal["shape", "animal", "food", "thing"]

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 38, 38),
    "orange": (249, 140, 28),
    "yellow": (240, 210, 48),
    "green": (38, 158, 60),
    "blue": (38, 78, 214),
    "purple": (138, 60, 170),
    "pink": (255, 150, 195),
    "black": (18, 18, 18),
    "white": (245, 245, 245),
    "gray": (130, 130, 130),
}
"""Colours of shapes and backgrounds, RGB 0..255."""
SHADES = 3
"""Number of shades of a colour: 0 is the colour of `COLORS`, 1 is darker and 2 is lighter. Prompts and answers name
only the colour, so the seed decides the shade."""
FRESH_COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
"""Colours of a background that a prompt leaves open."""
_DARKER, _LIGHTER = 0.86, 0.16
_GRAY_SHADES = {"black": (18, 4, 40), "white": (245, 228, 255), "gray": (130, 108, 152)}


def shade(color: str, number: int) -> tuple[int, int, int]:
    """Return a shade of a colour, RGB 0..255. It is nearer to its own colour than to any other one of `COLORS`."""
    if color in _GRAY_SHADES:
        value = _GRAY_SHADES[color][number]
        return value, value, value
    red, green, blue = COLORS[color]
    if number == 1:
        return round(red * _DARKER), round(green * _DARKER), round(blue * _DARKER)
    if number == 2:
        light = [round(value + (255 - value) * _LIGHTER) for value in (red, green, blue)]
        return light[0], light[1], light[2]
    return red, green, blue


SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "diamond", "cross")

ANIMALS = {
    "cat": 0x1F431,
    "dog": 0x1F436,
    "rabbit": 0x1F430,
    "fox": 0x1F98A,
    "panda": 0x1F43C,
    "lion": 0x1F981,
    "tiger": 0x1F42F,
    "bear": 0x1F43B,
    "monkey": 0x1F435,
    "pig": 0x1F437,
    "frog": 0x1F438,
    "horse": 0x1F434,
    "elephant": 0x1F418,
    "penguin": 0x1F427,
    "owl": 0x1F989,
    "duck": 0x1F986,
    "bee": 0x1F41D,
    "butterfly": 0x1F98B,
    "ladybug": 0x1F41E,
    "turtle": 0x1F422,
    "octopus": 0x1F419,
    "fish": 0x1F420,
    "whale": 0x1F433,
    "crab": 0x1F980,
}
FOOD = {
    "apple": 0x1F34E,
    "banana": 0x1F34C,
    "strawberry": 0x1F353,
    "watermelon": 0x1F349,
    "lemon": 0x1F34B,
    "cherry": 0x1F352,
    "carrot": 0x1F955,
    "mushroom": 0x1F344,
    "pizza": 0x1F355,
    "burger": 0x1F354,
    "donut": 0x1F369,
    "cake": 0x1F382,
    "ice cream": 0x1F366,
}
THINGS = {
    "tree": 0x1F333,
    "cactus": 0x1F335,
    "rose": 0x1F339,
    "sunflower": 0x1F33B,
    "moon": 0x1F319,
    "sun": 0x2600,
    "rainbow": 0x1F308,
    "cloud": 0x2601,
    "snowman": 0x26C4,
    "fire": 0x1F525,
    "car": 0x1F697,
    "bus": 0x1F68C,
    "bicycle": 0x1F6B2,
    "rocket": 0x1F680,
    "airplane": 0x2708,
    "sailboat": 0x26F5,
    "house": 0x1F3E0,
    "castle": 0x1F3F0,
    "ball": 0x26BD,
    "guitar": 0x1F3B8,
    "balloon": 0x1F388,
    "crown": 0x1F451,
    "umbrella": 0x2602,
    "gift": 0x1F381,
    "robot": 0x1F916,
    "ghost": 0x1F47B,
    "pumpkin": 0x1F383,
}
OBJECTS: dict[str, int] = {**ANIMALS, **FOOD, **THINGS}
"""Name → code point of the drawing in Noto Color Emoji."""

PLACES: tuple[Place, ...] = ("large", "small", "left", "right", "top", "bottom", "lower left", "lower right")
ALONE: tuple[Place, ...] = PLACES[:6]
"""Places of a thing that is alone or one of two."""
SEVERAL: dict[int, tuple[Place, ...]] = {2: ("left", "right"), 3: ("top", "lower left", "lower right")}
"""Places of two and of three equal things."""
SIDES: tuple[Place, ...] = ("left", "right", "top", "bottom")
OPPOSITE: dict[Place, Place] = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}


@dataclass(frozen=True)
class Thing:
    """A shape with a colour, or an object."""

    name: str
    color: str | None = None

    @property
    def kind(self) -> Kind:
        if self.name in SHAPES:
            return "shape"
        return "animal" if self.name in ANIMALS else "food" if self.name in FOOD else "thing"


@dataclass(frozen=True)
class Placed:
    """A thing and its place: large or small in the centre, or small at one side or in one corner.

    Attributes:
        shade: the shade of a shape's colour; None where any shade is right, which is drawn as 0.
    """

    thing: Thing
    place: Place
    shade: int | None = None


@dataclass(frozen=True)
class Scene:
    """The contents of a picture: a background, things, and a style.

    Two different things are at opposite sides. Two or three equal things are in the places of `SEVERAL`.

    Attributes:
        shade: the shade of the background; None where any shade is right, which is drawn as 0.
    """

    background: str
    placed: tuple[Placed, ...] = ()
    style: Style = "plain"
    shade: int | None = None

    def on(self, background: str, shade: int | None = None) -> "Scene":
        return replace(self, background=background, shade=shade)

    def with_things(self, *placed: Placed) -> "Scene":
        return replace(self, placed=placed)

    def styled(self, style: Style) -> "Scene":
        return replace(self, style=style)

    @property
    def in_any_shade(self) -> "Scene":
        """The scene with all shades left open."""
        return replace(self, shade=None, placed=tuple(replace(each, shade=None) for each in self.placed))

    @property
    def count(self) -> int:
        """The number of equal things; 1 if the things differ or there is at most one."""
        return len(self.placed) if len({each.thing for each in self.placed}) == 1 else 1

    @property
    def is_held_out(self) -> bool:
        """Whether a thing is on the background that it never has in training."""
        return any(held_out_background(each.thing) == self.background for each in self.placed)

    @property
    def is_visible(self) -> bool:
        """Whether every shape has another colour than the background."""
        return all(each.thing.color != self.background for each in self.placed)


@cache
def held_out_background(thing: Thing) -> str:
    """Return the one background that a thing never has in training; the same on every machine (CRC-32 of the name)."""
    visible = [color for color in COLORS if color != thing.color]
    return visible[zlib.crc32(f"{thing.color} {thing.name}".encode()) % len(visible)]
