"""Ctrl-C, SIGTERM and a closed terminal: while a turn runs, the first one asks it to stop and the second one leaves at
once. Handlers belong to the program, so that a turn can run on any thread."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from sensenova_cli.errors import INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

STOPPING = "stopping after this step; Ctrl-C again leaves at once"

_last: int | None = None
"""The signal that came last."""


def exit_requested() -> bool:
    """Whether the signal that came last was more than Ctrl-C: the program is to end, not only what it is doing."""
    return _last is not None and _last != signal.SIGINT


def clear_signals() -> None:
    """What came before does not count."""
    global _last
    _last = None


def _handled() -> list[signal.Signals]:
    """The signals that are not ignored on purpose, as nohup has it for a closed terminal."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def exit_now() -> NoReturn:
    """Leave without waiting for anything; no file is ever half-written, since they are renamed into place."""
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\x1b[0m\n")  # a progress bar may have hidden the cursor or left a colour
    os._exit(INTERRUPTED)


class Stop:
    """Asks a turn to stop between two events. Can be asked from any thread.

    Attributes:
        requested: whether the turn shall stop at the next event.
    """

    def __init__(self) -> None:
        self.requested = False

    def request(self) -> None:
        """Ask the turn to stop."""
        self.requested = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if the turn shall stop."""
        if self.requested:
            raise KeyboardInterrupt

    @contextmanager
    def listening(self, is_live: Callable[[], bool]) -> Iterator[None]:
        """Around a turn, which calls `check` after every event.

        Args:
            is_live: whether the cursor stands on the last row of something that is redrawn in place.
        """
        yield

    @contextmanager
    def shielding(self) -> Iterator[None]:
        """Around the recording of a turn that has ended: a signal that comes now is not a second one."""
        yield


class SignalStop(Stop):
    """A stop that the first signal requests while a turn listens. `handle_signals` has to have been called, on the main
    thread; the turn may run on another one."""

    def __init__(self) -> None:
        super().__init__()
        self._is_live: Callable[[], bool] = lambda: False

    @contextmanager
    def listening(self, is_live: Callable[[], bool]) -> Iterator[None]:
        """As `Stop.listening`."""
        self._is_live = is_live
        _listeners.append(self)
        try:
            yield
        finally:
            _listeners.remove(self)

    @contextmanager
    def shielding(self) -> Iterator[None]:
        """As `Stop.shielding`."""
        with SignalStop().listening(lambda: False):
            yield

    def request(self) -> None:
        """Ask the turn to stop, and say so on a terminal."""
        super().request()
        if sys.stderr.isatty():
            # Not through sys.stderr: the signal may have come in the middle of a write to it.
            os.write(2, self._message())

    def _message(self) -> bytes:
        if not self._is_live():
            return f"\n{STOPPING}\n".encode()
        # On a line of its own it would move the cursor, and what is taken away afterwards would be the wrong rows.
        width = shutil.get_terminal_size().columns
        return f"\r\x1b[0m\x1b[2K{STOPPING[: width - 1]}".encode()


_listeners: list[SignalStop] = []
"""The stops of the turns that run now."""


def handle_signals() -> None:
    """From now on the first signal asks a running turn to stop, and elsewhere raises KeyboardInterrupt in the main
    thread. A second one ends the program."""

    def stop(number: int, frame: FrameType | None) -> None:
        global _last
        _last = number
        if not _listeners:
            for each in _handled():
                signal.signal(each, lambda number, frame: exit_now())
            raise KeyboardInterrupt
        waiting = [each for each in _listeners if not each.requested]
        if not waiting:
            exit_now()
        for listener in waiting:
            listener.request()

    for number in _handled():
        signal.signal(number, stop)
