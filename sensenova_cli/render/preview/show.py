"""Finished pictures below the cursor, and a forming one inside a Live display."""

import os
import time
from collections.abc import Callable, Mapping, Sequence

from PIL import Image
from rich.console import Console, ConsoleOptions, RenderResult

from config.settings import PreviewChoice
from sensenova_cli.render.preview.detect import Method, cell_size, choose_method, has_blocks
from sensenova_cli.render.preview.renderables import HALF_BLOCKS, HalfBlocks, placed_picture
from sensenova_cli.render.preview.sheet import contact_sheet

MAX_COLUMNS, MAX_ROWS = 96, 32
"""Most room that a finished picture takes."""
MAX_LIVE_ROWS = 20
"""Most rows of a forming picture, which are sent again and again: about 30 kB each time in 24-bit colours."""
LIVE_SIZE = 4 * MAX_LIVE_ROWS
"""Pixels of a forming picture's longer side: twice what is shown, so that scaling to the exact size can average."""
MIN_COLUMNS, MIN_ROWS = 8, 4
"""Room below which nothing can be made out."""
PROMPT_ROWS = 3
"""Rows that are left for what stands above and below a picture."""
PER_SHEET = 9
"""Most pictures on one contact sheet: with more of them none is large enough on a screen of 24 rows."""
INTERVAL = 0.25
"""Least seconds between two drawings of a forming picture."""
REST = 20
"""After each drawing, so many times what it took, so that a slow terminal or machine loses at most 5 %."""


class Preview:
    """Shows pictures on one console, in one way or not at all. Made by `choose`."""

    def __init__(self, console: Console, method: Method | None) -> None:
        self._console = console
        self.method = method
        """`kitty`, `iterm2`, `sixel`, `blocks`, or None: nothing is shown."""

    @classmethod
    def choose(cls, console: Console, setting: PreviewChoice, environment: Mapping[str, str] = os.environ) -> "Preview":
        """Decide how pictures are shown; `detect.choose_method` says how, and which errors are raised."""
        return cls(console, choose_method(setting, console, environment))

    def show(self, image: Image.Image) -> None:
        """Print a picture where the cursor is, at the start of a line, and leave the cursor below it.

        Nothing is printed where the screen is too small for anything to be made out.

        Args:
            image: RGB; it is made smaller to fit, never larger.
        """
        room = _room(self._console, MAX_ROWS)
        if self.method is None or room is None:
            return
        if self.method == "blocks":
            self._console.print(HalfBlocks(image, *room))
        else:
            self._console.print(placed_picture(image, self.method, cell_size(self._console), *room))

    def show_several(self, images: Sequence[Image.Image], first: int = 1) -> None:
        """Print pictures as contact sheets, as `show` would print one.

        Args:
            images: RGB.
            first: the number of the first one; the others count on.
        """
        room = _room(self._console, MAX_ROWS)
        if self.method is None or room is None:
            return
        cell = HALF_BLOCKS if self.method == "blocks" else cell_size(self._console)
        for start in range(0, len(images), PER_SHEET):
            page = images[start : start + PER_SHEET]
            self.show(contact_sheet(page, (room[0] * cell[0], room[1] * cell[1]), first + start))

    def live(self) -> "LivePreview | None":
        """A picture that forms, for a Live display on this console; None where it cannot be shown.

        It consists of half blocks whatever the finished one is shown with. A Live display takes its lines away and
        writes them again: a picture of iTerm2's or sixel cannot be taken away, and one of kitty's, though it has a
        number by which it can be replaced, is no part of those lines: it would stay where it is while they scroll.
        """
        if self.method == "blocks" or (self.method and has_blocks(self._console)):
            return LivePreview(self._console)
        return None


class LivePreview:
    """A Rich renderable: the last picture that was offered, in half blocks; nothing before the first."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._image: Image.Image | None = None
        self._due = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether no picture has been drawn yet."""
        return self._image is None

    @property
    def is_due(self) -> bool:
        """Whether the last drawing was long enough ago for another one."""
        return time.monotonic() >= self._due

    def draw(self, image: Image.Image, refresh: Callable[[], None]) -> None:
        """Take a picture and draw the display; ask `is_due` first.

        Args:
            image: RGB; `LIVE_SIZE` pixels suffice for its longer side.
            refresh: draws the Live display that this is a part of.
        """
        self._image = image
        start = time.monotonic()
        refresh()
        end = time.monotonic()
        self._due = end + max(INTERVAL, REST * (end - start))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = _room(self._console, MAX_LIVE_ROWS)
        if self._image is not None and room is not None:
            # Behind its last row the terminal writes ^C when the user gives up: wrapped to a row of its own it would
            # have the wrong rows taken away afterwards.
            yield HalfBlocks(self._image, min(room[0], self._console.width - 3), room[1])


def _room(console: Console, most_rows: int) -> tuple[int, int] | None:
    """Columns and rows for a picture, or None where the screen is too small for one."""
    columns, rows = min(console.width, MAX_COLUMNS), min(console.height - PROMPT_ROWS, most_rows)
    return (columns, rows) if columns >= MIN_COLUMNS and rows >= MIN_ROWS else None
