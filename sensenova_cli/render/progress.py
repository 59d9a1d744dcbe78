"""Progress on stderr: bars on a screen, a few lines in a pipe."""

import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from PIL import Image
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TransferSpeedColumn,
)
from rich.table import Column
from rich.text import Text

from config.units import count_of, format_bytes
from sensenova_cli.render.preview import LivePreview

NARROW = 60
"""Width in columns below which a bar does not fit beside the figures."""
SHORT_SECONDS = 10.0
"""Work that ends within these seconds prints no lines in a pipe."""


class ProgressView(Protocol):
    """The display of one task that advances from 0 to `total`."""

    def update(self, done: int, total: int) -> None:
        """Show the progress; `total` is 0 while it is unknown."""

    def close(self) -> None:
        """End the display; the task is finished or cancelled."""


class _LiveBar:
    """A bar that is redrawn in place and removed when it is closed. A forming picture may be below it."""

    bar_width = 40

    def __init__(
        self,
        console: Console,
        title: str,
        figures: Sequence[ProgressColumn],
        picture: LivePreview | None = None,
        later: int = 0,
        left: ProgressColumn | None = None,
    ) -> None:
        # On a narrow screen the title is cut rather than wrapped, and the bar is left out.
        name = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
        bar = [BarColumn(self.bar_width)] if console.width >= NARROW else []
        self._progress = _ProgressAbove(
            picture,
            name,
            *bar,
            *figures,
            left or _TimeLeft(later),
            console=console,
            transient=True,
            # A picture is redrawn only when it changes, not ten times a second.
            auto_refresh=picture is None,
            # With redirection, Rich would print results to stderr even if stdout is a file.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task(title, total=None)
        self._progress.start()

    def update(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total or None)

    def close(self) -> None:
        self._progress.stop()


class _ProgressAbove(Progress):
    """A bar above a forming picture."""

    def __init__(self, below: LivePreview | None, *columns: ProgressColumn, **options: Any) -> None:
        self._below = below  # set first, because Rich's constructor already renders
        super().__init__(*columns, **options)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self._below is not None:
            yield self._below


class LiveSteps(_LiveBar):
    """A bar for the denoising steps of one picture, with rate, the time left for the run, and the forming picture.

    Args:
        later: number of steps of the pictures that the run makes after this one.
        figures: columns in place of those with steps and rate.
        left: a column in place of that with the time left.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        picture: LivePreview | None = None,
        later: int = 0,
        figures: Sequence[ProgressColumn] | None = None,
        left: ProgressColumn | None = None,
    ) -> None:
        super().__init__(console, title, figures or [MofNCompleteColumn(), _Rate()], picture, later, left)
        self._picture = picture

    def update(self, done: int, total: int, preview: Image.Image | None = None) -> None:
        """Show the progress in steps; `preview` is the picture as predicted after these steps."""
        super().update(done, total)
        if self._picture is None:
            return
        if preview is not None and self._picture.is_due:
            self._picture.draw(preview, self._progress.refresh)
        elif self._picture.is_empty:
            self._progress.refresh()


class LiveBytes(_LiveBar):
    """A bar for bytes read or downloaded, with rate and time left."""

    def __init__(self, console: Console, title: str) -> None:
        super().__init__(console, title, [_Bytes(), TransferSpeedColumn()])


class _PlainLines:
    """Progress as lines: at the start, at each quarter and at the end. Short work prints none: its lines are held back
    until `SHORT_SECONDS` have passed.

    Args:
        began: value of `time.perf_counter` when the run began; None for now.
        start: value of `time.perf_counter` when this part of it began; None for now.
    """

    def __init__(self, console: Console, title: str, began: float | None = None, start: float | None = None) -> None:
        self._console = console
        self._title = title
        self._start = time.perf_counter() if start is None else start
        self._began = self._start if began is None else began
        self._quarters = 0
        self._held: list[str] = []

    def update(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if done == 0:
            self._start = now
        quarters = 4 * done // total if total else 0
        if quarters > self._quarters:
            self._quarters = quarters
            self._held.append(f": {self._figures(done, total, now - self._start)}")
        self._print_if_due(now)

    def _print_if_due(self, now: float) -> None:
        if now - self._began >= SHORT_SECONDS:
            for text in self._held:
                self._console.print(f"{self._title}{text}", soft_wrap=True, markup=False)
            self._held = []

    def close(self) -> None:
        """Do nothing: nothing is redrawn."""

    def _figures(self, done: int, total: int, seconds: float) -> str:
        raise NotImplementedError


class PlainSteps(_PlainLines):
    """Lines about the denoising steps of one picture, with rate and the time left for the run.

    Args:
        later: number of steps of the pictures that the run makes after this one.
        began: value of `time.perf_counter` when the run began to draw; None for now.
        start: value of `time.perf_counter` when the first step began; None for now.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        later: int = 0,
        began: float | None = None,
        start: float | None = None,
    ) -> None:
        super().__init__(console, title, began, start)
        self._later = later
        self._is_announced = False

    def update(self, done: int, total: int, preview: Image.Image | None = None) -> None:
        """Show the progress in steps; lines do not show the preview."""
        if not self._is_announced:
            self._is_announced = True
            self._held.append(f": {count_of(total, 'step')}")
        super().update(done, total)

    def _figures(self, done: int, total: int, seconds: float) -> str:
        rate = f", {done / seconds:.2f} steps/s" if seconds else ""
        remaining = total - done + self._later
        left = time_left(seconds / done * remaining, self._later) if remaining else f"{seconds:.1f} s"
        return f"step {done} of {total}{rate}, {left}"


class PlainBytes(_PlainLines):
    """Lines about bytes read or downloaded."""

    def __init__(self, console: Console, title: str) -> None:
        super().__init__(console, title)
        self._first: tuple[int, float] | None = None
        self._held.append(" …")
        self._print_if_due(self._start)

    def update(self, done: int, total: int) -> None:
        if self._first is None and done:
            self._first = done, time.perf_counter()  # the time before is not reading time, but PyTorch's import
        super().update(done, total)

    def _figures(self, done: int, total: int, seconds: float) -> str:
        figures = f"{format_bytes(done)} of {format_bytes(total)}"
        first, since = self._first or (done, 0.0)
        passed = time.perf_counter() - since
        return f"{figures}, {format_rate((done - first) / passed, 'B/s')}" if done > first and passed else figures


def time_left(seconds: float, later: int = 0) -> str:
    """Format the time that is left: `40 s left`, or `2 min 05 s left in all` if it includes later pictures."""
    return f"{format_seconds(seconds)} left{' in all' if later else ''}"


def format_seconds(seconds: float) -> str:
    """Format a duration: `40 s`, `2 min 05 s`, `3 h 20 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def format_rate(per_second: float, unit: str) -> str:
    """Format a rate with its prefix: `603 TFLOP/s`, `2.62 GB/s`."""
    for prefix, factor in (("T", 1e12), ("G", 1e9)):
        if per_second >= factor:
            return f"{per_second / factor:.3g} {prefix}{unit}"
    return f"{per_second / 1e6:.3g} M{unit}"


class _Bytes(DownloadColumn):
    """A column with bytes done and total; empty while the total is unknown."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.total is not None else Text("")


class _TimeLeft(ProgressColumn):
    """A column with the time that the run still needs, at the present rate.

    Args:
        later: number of steps after those of this bar.
    """

    max_refresh = 0.5

    def __init__(self, later: int) -> None:
        super().__init__()
        self._later = later

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        remaining = task.remaining
        if not speed or remaining is None:
            return Text("")
        return Text(time_left((remaining + self._later) / speed, self._later), style="cyan", no_wrap=True)


class _Rate(ProgressColumn):
    """A column with steps per second, or seconds per step if a step takes longer than a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.2f} steps/s" if speed >= 1 else f"{1 / speed:.1f} s/step", style="dim")
