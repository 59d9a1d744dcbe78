"""Display of finished pictures, and a forming picture for a Live display."""

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
"""Maximum size of a finished picture."""
MAX_LIVE_ROWS = 20
"""Maximum rows of a forming picture. They are sent repeatedly: about 30 kB each time in 24-bit colors."""
LIVE_SIZE = 4 * MAX_LIVE_ROWS
"""Pixels of a forming picture's longer side: twice as many as are shown, so that scaling can average them."""
MIN_COLUMNS, MIN_ROWS = 8, 4
"""Minimum size: a smaller picture would be unrecognizable."""
PROMPT_ROWS = 3
"""Rows that stay free for the text above and below a picture."""
SCREEN, HALF, SMALL = 1.0, 1 / 2, 1 / 3
"""Largest part of the screen's rows that a picture takes: the screen but PROMPT_ROWS; half of it, so that the prompt
stays in sight; a third, for a picture that the user has seen before."""
PER_SHEET = 9
"""Maximum number of pictures on a contact sheet: with more, they are too small on a screen of 24 rows."""
INTERVAL = 0.25
"""Minimum seconds between two drawings of a forming picture."""
REST = 20
"""Pause after a drawing as a multiple of its duration, so that drawing takes at most 5 % of the time."""


class Preview:
    """Shows pictures on one console, or does nothing if the console cannot show them. `choose` makes a preview."""

    def __init__(self, console: Console, method: Method | None, part: float = SCREEN) -> None:
        self._console = console
        self._part = part
        self.method = method
        """`kitty`, `iterm2`, `sixel` or `blocks`; None shows nothing."""

    @classmethod
    def choose(
        cls,
        console: Console,
        setting: PreviewChoice,
        environment: Mapping[str, str] = os.environ,
        part: float = SCREEN,
    ) -> "Preview":
        """Return a preview with the method of `detect.choose_method`; errors as there.

        Args:
            part: largest part of the screen's rows that a picture takes: SCREEN, HALF or SMALL.
        """
        return cls(console, choose_method(setting, console, environment), part)

    def show(self, image: Image.Image) -> None:
        """Print a picture at the cursor, which must be at the start of a line, and leave the cursor below it.

        Nothing is printed if the screen is too small.

        Args:
            image: RGB. It is scaled down to fit, never up.
        """
        room = _room(self._console, MAX_ROWS, self._part)
        if self.method is None or room is None:
            return
        if self.method == "blocks":
            self._console.print(HalfBlocks(image, *room))
        else:
            self._console.print(placed_picture(image, self.method, cell_size(self._console), *room))

    def show_several(self, images: Sequence[Image.Image], numbers: Sequence[int] = ()) -> None:
        """Print pictures as contact sheets, as `show` prints a picture.

        Args:
            images: RGB.
            numbers: the number of each picture; without them, the pictures are numbered from 1.
        """
        room = _room(self._console, MAX_ROWS, self._part)
        if self.method is None or room is None:
            return
        cell = HALF_BLOCKS if self.method == "blocks" else cell_size(self._console)
        numbers = numbers or range(1, len(images) + 1)
        for start in range(0, len(images), PER_SHEET):
            page = slice(start, start + PER_SHEET)
            self.show(contact_sheet(images[page], (room[0] * cell[0], room[1] * cell[1]), numbers[page]))

    def live(self) -> "LivePreview | None":
        """Return a forming picture for a Live display on this console; None if it cannot be shown.

        A forming picture always consists of half blocks. A Live display erases its lines and writes them again, but a
        picture of iTerm2 or sixel cannot be erased. A picture of kitty can be replaced by its number, but it would not
        scroll with the lines.
        """
        if self.method == "blocks" or (self.method and has_blocks(self._console)):
            return LivePreview(self._console, self._part)
        return None


class LivePreview:
    """A Rich renderable of the latest picture in half blocks; empty before the first one."""

    def __init__(self, console: Console, part: float = SCREEN) -> None:
        self._console = console
        self._part = part
        self._image: Image.Image | None = None
        self._due = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether no picture has been drawn yet."""
        return self._image is None

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since the last drawing."""
        return time.monotonic() >= self._due

    def draw(self, image: Image.Image, refresh: Callable[[], None]) -> None:
        """Replace the picture and draw the display. Check `is_due` before.

        Args:
            image: RGB; `LIVE_SIZE` pixels are enough for its longer side.
            refresh: draws the Live display that contains this picture.
        """
        self._image = image
        start = time.monotonic()
        refresh()
        end = time.monotonic()
        self._due = end + max(INTERVAL, REST * (end - start))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = _room(self._console, MAX_LIVE_ROWS, self._part)
        if self._image is not None and room is not None:
            # If the user presses Ctrl-C, the terminal writes ^C after the last row. If that wrapped to a new row, the
            # display would erase the wrong rows afterwards.
            yield HalfBlocks(self._image, min(room[0], self._console.width - 3), room[1])


def _room(console: Console, most_rows: int, part: float) -> tuple[int, int] | None:
    """Return columns and rows for a picture, or None if the screen is too small."""
    columns = min(console.width, MAX_COLUMNS)
    rows = min(console.height - PROMPT_ROWS, most_rows, int(console.height * part))
    return (columns, rows) if columns >= MIN_COLUMNS and rows >= MIN_ROWS else None
