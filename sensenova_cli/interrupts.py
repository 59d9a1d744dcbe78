"""Ctrl-C, SIGTERM and a closed terminal: while pictures are made, the first one asks to stop and the second one
leaves at once."""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn

from sensenova_cli.errors import INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_last: int | None = None
"""The signal that came last."""


def wants_to_leave() -> bool:
    """Whether the signal that came last was more than Ctrl-C: the program is to end, not only what it is doing."""
    return _last is not None and _last != signal.SIGINT


def forget_signals() -> None:
    """What came before does not count."""
    global _last
    _last = None


def _handled() -> list[signal.Signals]:
    """The signals that are not ignored on purpose, as nohup has it for a closed terminal."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def end_at_once() -> NoReturn:
    """Leave without waiting for anything; no file is ever half-written, since they are renamed into place."""
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\x1b[0m\n")  # a progress bar may have hidden the cursor or left a colour
    os._exit(INTERRUPTED)


def end_on_signals() -> None:
    """From now on the first signal raises KeyboardInterrupt wherever the program is; a second one ends it."""

    def stop(number: int, frame: FrameType | None) -> None:
        global _last
        _last = number
        for each in _handled():
            signal.signal(each, lambda number, frame: end_at_once())
        raise KeyboardInterrupt

    for number in _handled():
        signal.signal(number, stop)


STOPPING = "stopping after this step; Ctrl-C again leaves at once"


class Interrupts:
    """While it is entered, the first signal only sets `requested`, so that work ends between two steps.

    Args:
        is_live: tells whether the cursor stands on the last row of something that is redrawn in place.
    """

    def __init__(self, is_live: Callable[[], bool] = lambda: False) -> None:
        self._is_live = is_live
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        for number in _handled():
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came."""
        if self.requested:
            raise KeyboardInterrupt

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        global _last
        _last = number
        if self.requested:
            end_at_once()
        self.requested = True
        if sys.stderr.isatty():
            # Not through sys.stderr: the signal may have come in the middle of a write to it.
            os.write(2, self._message())

    def _message(self) -> bytes:
        if not self._is_live():
            return f"\n{STOPPING}\n".encode()
        # On a line of its own it would move the cursor, and what is taken away afterwards would be the wrong rows.
        width = shutil.get_terminal_size().columns
        return f"\r\x1b[0m\x1b[2K{STOPPING[: width - 1]}".encode()
