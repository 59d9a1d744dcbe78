"""Progress on stderr: bars on a screen, a few lines elsewhere."""

import time
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

NARROW = 60
"""Columns below which a bar leaves out what is not needed."""


class ProgressView(Protocol):
    """One thing that advances from 0 to `total`."""

    def update(self, done: int, total: int) -> None:
        """So much of it is done; `total` 0 is not known yet."""

    def close(self) -> None:
        """It has ended, or was given up."""


class LiveSteps:
    """Denoising steps of one picture as a bar with rate and remaining time."""

    def __init__(self, console: Console, title: str) -> None:
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn()]
        if console.width < NARROW:
            columns = [MofNCompleteColumn(), _Rate(), TimeRemainingColumn()]
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task(title, total=None)
        self._progress.start()

    def update(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total or None)

    def close(self) -> None:
        self._progress.stop()


class PlainSteps:
    """Denoising steps of one picture as lines: at the start, at each quarter, at the end."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._start = time.perf_counter()
        self._quarters = 0
        self._started = False

    def update(self, done: int, total: int) -> None:
        if not self._started:
            self._started = True
            self._say(f"{total} steps")
        quarters = 4 * done // total
        if quarters > self._quarters:
            self._quarters = quarters
            seconds = time.perf_counter() - self._start
            rate = f"{done / seconds:.2f} steps/s" if seconds else ""
            left = f"{seconds / done * (total - done):.0f} s left" if done < total else f"{seconds:.1f} s"
            self._say(f"step {done} of {total}, {rate}, {left}")

    def close(self) -> None:
        """Nothing to take away."""

    def _say(self, text: str) -> None:
        self._console.print(f"{self._title}: {text}", soft_wrap=True, markup=False)


class LiveBytes:
    """Bytes read or downloaded as a bar."""

    def __init__(self, console: Console, title: str) -> None:
        columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()]
        if console.width < NARROW:
            columns = [DownloadColumn(), TimeRemainingColumn()]
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task(title, total=None)
        self._progress.start()

    def update(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total or None)

    def close(self) -> None:
        self._progress.stop()


class PlainBytes:
    """Bytes read or downloaded as lines: at the start, at each quarter, at the end."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._quarters = 0
        self._say("…")

    def update(self, done: int, total: int) -> None:
        quarters = 4 * done // total if total else 0
        if quarters > self._quarters:
            self._quarters = quarters
            self._say(f"{gigabytes(done)} of {gigabytes(total)}")

    def close(self) -> None:
        """Nothing to take away."""

    def _say(self, text: str) -> None:
        separator = " " if text == "…" else ": "
        self._console.print(f"{self._title}{separator}{text}", soft_wrap=True, markup=False)


def gigabytes(count: int) -> str:
    """Bytes for people: `16.3 GB`, `512 MB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


class _Rate(ProgressColumn):
    """Steps a second; seconds a step where it takes longer."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.2f} steps/s" if speed >= 1 else f"{1 / speed:.1f} s/step", style="dim")
