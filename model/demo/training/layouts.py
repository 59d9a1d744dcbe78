"""Layouts: the sizes of pictures, and where things stand in a picture of each size.

Positions are whole tokens of 32 pixels. So a thing has the same pixels in each of its tokens at every position and in
pictures of every size, and the network learns it once.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product

import numpy as np

from model.demo.training.world import Placed, Scene

Grid = tuple[int, int]
"""Rows and columns of tokens."""

SQUARE: Grid = (8, 8)
GRIDS: tuple[Grid, ...] = (SQUARE, (7, 9), (9, 7), (7, 10), (10, 7), (6, 11), (11, 6), (6, 6), (10, 10))
"""The trained sizes: 256×256, then 4:3, 3:4, 3:2, 2:3, 16:9 and 9:16 of about the same area, 192×192 and 320×320."""

SIDES = (184, 144, 104, 60)
"""Longer side of a thing in pixels: large, medium, small, tiny."""
LARGE, MEDIUM, SMALL, TINY = range(len(SIDES))

LAYOUTS = (
    "empty", "large", "small", "left", "right", "top", "bottom",
    "left right", "right left", "top bottom", "bottom top", "two", "three",
)  # fmt: skip
"""One thing about the centre or at a side; two things, the first one first; two or three of one thing."""

SHIFTING: dict[str, frozenset[str]] = {
    **dict.fromkeys(("empty", "three"), frozenset()),
    **dict.fromkeys(("large", "small", "two"), frozenset({"down", "across"})),
    **dict.fromkeys(("left", "right", "left right", "right left"), frozenset({"down"})),
    **dict.fromkeys(("top", "bottom", "top bottom", "bottom top"), frozenset({"across"})),
}
"""Shifts that are visible in a picture of each layout."""

SLOTS = 3
"""Most things in a picture."""
SIZES, SHIFTS, FLIPS = 2, 3, 2
"""Number of choices that a layout leaves open: large or medium, shifts along each axis, arrangements of several."""

Spot = tuple[int, int, int]
"""Index in SIDES, and row and column of the centre, in tokens from the picture's upper left corner."""


def layout_of(scene: Scene) -> str:
    """Return the name of a scene's layout."""
    if not scene.placed:
        return "empty"
    if scene.placed[0].count > 1:
        return ("two", "three")[scene.placed[0].count - 2]
    return " ".join(each.place for each in scene.placed)


def things_of(scene: Scene) -> list[Placed]:
    """Return the thing in each slot: a counted thing is in several."""
    return [each for each in scene.placed for _ in range(each.count)]


def spots(layout: str, grid: Grid, size: int, down: int, across: int, flip: int) -> list[Spot]:
    """Return the spot of each thing.

    Args:
        size: 0 for large, 1 for medium; it counts only for one thing about the centre.
        down, across: 0 for the middle, 1 for up or left, 2 for down or right; of several things, all shift together.
        flip: another arrangement of several of one thing.
    """
    rows, columns = grid
    y, x = rows // 2, columns // 2
    of_row, of_column = (TINY if length < 7 else SMALL for length in (columns, rows))
    near_y, near_x = _near(rows), _near(columns)
    down, across = _shift(down, rows), _shift(across, columns)
    at: dict[str, Spot] = {
        "left": (of_row, y + down, near_x),
        "right": (of_row, y + down, columns - near_x),
        "top": (of_column, near_y, x + across),
        "bottom": (of_column, rows - near_y, x + across),
    }
    if layout == "empty":
        return []
    if layout == "large":
        reach = 1 if max(grid) < 10 else 2
        return [((LARGE, MEDIUM)[size], _inside(y + reach * down, rows), _inside(x + reach * across, columns))]
    if layout == "small":
        return [(SMALL, y + down, x + across)]
    if layout == "two":
        return [at["top"], at["bottom"]] if flip else [at["left"], at["right"]]
    if layout == "three":
        side = max(of_row, of_column)
        alone, others = (rows - near_y, near_y) if flip else (near_y, rows - near_y)
        return [(side, alone, x), (side, others, near_x), (side, others, columns - near_x)]
    return [at[place] for place in layout.split()]


def _shift(choice: int, length: int) -> int:
    """Return the shift, −1 to 1, for a choice, as far as a large thing can shift.

    All layouts have the same shift, so that an edit can keep it: it is visible in the picture before.
    """
    return _inside(length // 2 + (0, -1, 1)[choice], length) - length // 2


def _inside(middle: int, length: int) -> int:
    """Return the position of a large thing's centre that is nearest to `middle`."""
    return min(max(middle, 3), length - 3)


def _near(length: int) -> int:
    """Return the distance, in tokens, of a thing at a side from that side."""
    return 3 if length >= 10 else 2


def choices() -> Iterator[tuple[int, int, int, int]]:
    """Yield all combinations of size, shift down, shift across and flip, in the order of `spot_table`."""
    return product(range(SIZES), range(SHIFTS), range(SHIFTS), range(FLIPS))


@cache
def spot_table(grid: Grid) -> np.ndarray:
    """Return the spots of all layouts and choices, (layouts · choices, SLOTS, 3) int16; −1 for an empty slot."""
    rows = []
    for layout in LAYOUTS:
        for choice in choices():
            found = spots(layout, grid, *choice)
            rows.append([*found, *[(-1, -1, -1)] * (SLOTS - len(found))])
    return np.array(rows, dtype=np.int16)


def pixels(grid: Grid) -> tuple[int, int]:
    """Return the (width, height) of a picture in pixels."""
    return 32 * grid[1], 32 * grid[0]


def grid_tables(grids: Sequence[Grid]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return rows and columns of each grid's tokens, (grids, length) each, −1 for padding, and the length.

    The length is a multiple of 8, as fused attention needs it.
    """
    length = -(-max(rows * columns for rows, columns in grids) // 8) * 8
    numbers = np.arange(length)
    columns = np.array([grid[1] for grid in grids])[:, None]
    count = np.array([grid[0] * grid[1] for grid in grids])[:, None]
    inside = numbers < count
    return np.where(inside, numbers // columns, -1), np.where(inside, numbers % columns, -1), length
