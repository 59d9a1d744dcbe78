"""Show the time that a server has worked so far, while nothing arrives from it."""

import time

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

INTERVAL = 30
"""Seconds between two lines in a pipe."""


class _Waiting:
    """Counts the seconds of waiting for one picture or answer.

    Args:
        title: name of the picture or answer that the server makes.
        began: value of `time.perf_counter` at the start.
        expected: average seconds of the earlier pictures; None if there are none.
    """

    def __init__(self, console: Console, title: str, began: float, expected: float | None) -> None:
        self._console = console
        self._title = title
        self._began = began
        self._expected = expected
        self._before = 0

    def _text(self) -> str:
        seconds = f"{time.perf_counter() - self._began:.0f} s"
        if self._before:
            return f"{self._title}: waiting for {self._before} other request{'s' * (self._before > 1)}, {seconds}"
        about = f" of about {self._expected:.0f} s" if self._expected is not None else ""
        return f"{self._title}: {seconds}{about}"


class LiveWaiting(_Waiting):
    """A row on a screen that is redrawn eight times a second, and removed at the end."""

    def __init__(self, console: Console, title: str, began: float, expected: float | None) -> None:
        super().__init__(console, title, began, expected)
        self._spinner = Spinner("dots")
        self._live = Live(
            console=console,
            transient=True,
            refresh_per_second=8,
            get_renderable=self._render,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def update(self, before: int = 0) -> None:
        """Set the number of requests that the server runs before this one. The row is redrawn by itself."""
        self._before = before

    def close(self) -> None:
        """Remove the row."""
        self._live.stop()

    def _render(self) -> Spinner:
        self._spinner.update(text=Text(self._text(), no_wrap=True))
        return self._spinner


class PlainWaiting(_Waiting):
    """A line in a pipe every 30 seconds, so that a short wait prints nothing."""

    def __init__(self, console: Console, title: str, began: float, expected: float | None) -> None:
        super().__init__(console, title, began, expected)
        self._next = began + INTERVAL

    def update(self, before: int = 0) -> None:
        """Print a line if 30 seconds have passed since the last one."""
        self._before = before
        if time.perf_counter() >= self._next:
            self._next += INTERVAL
            self._console.print(self._text(), soft_wrap=True, markup=False)

    def close(self) -> None:
        """Do nothing: printed lines stay."""
