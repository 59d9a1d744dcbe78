"""Ctrl-C, SIGTERM and a closed terminal: the first signal asks a running turn to stop, the second one ends the program.

The signal handlers belong to the program, not to a turn, so a turn can run on any thread.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from sensenova_cli.system import first_signals
from sensenova_cli.system.first_signals import INTERRUPTED, exit_interrupted, handled_signals

__all__ = [
    "SignalStop",
    "Stop",
    "clear_signals",
    "exit_now",
    "exit_requested",
    "finish",
    "handle_signals",
    "prompting",
    "unwinding",
    "was_swallowed",
]

STOPPING = "stopping after this step; Ctrl-C again quits at once"

_last: int | None = None
"""The last signal that was received."""
_raised = False
"""Whether a signal raised KeyboardInterrupt that no one has handled yet. Some code swallows it: destructors, callbacks,
and modules in C."""
_at_prompt: Callable[[], None] | None = None
"""Ends the prompt that reads keys now."""
_finished = False
"""Whether all results are written, so that signals are ignored."""
_unwinding = 0
"""Number of the `unwinding` blocks that run now."""


def exit_requested() -> bool:
    """Return whether the last signal asks to end the program. Ctrl-C only ends the running turn."""
    return _last is not None and _last != signal.SIGINT


def clear_signals() -> None:
    """Discard the last signal."""
    global _last
    _last = None


def was_swallowed() -> bool:
    """Return whether the KeyboardInterrupt of a signal has got lost, as in destructors and modules in C."""
    return _raised


def finish() -> None:
    """Ignore signals until the next turn: all results of the command are written."""
    global _finished
    _finished = True


@contextmanager
def unwinding() -> Iterator[None]:
    """Enclose work that cleans up after itself: a signal raises KeyboardInterrupt in it, also during an import."""
    global _unwinding
    _unwinding += 1
    try:
        yield
    finally:
        _unwinding -= 1


@contextmanager
def prompting(leave: Callable[[], None]) -> Iterator[None]:
    """Enclose a prompt that reads keys. SIGTERM and SIGHUP call `leave`, because an exception in the middle of the
    prompt's event loop would appear as a traceback."""
    global _at_prompt
    _at_prompt = leave
    try:
        yield
    finally:
        _at_prompt = None


def exit_now() -> NoReturn:
    """End the program at once. No file is left half-written, because files are renamed into place."""
    if sys.stderr.isatty():
        # A progress bar may have hidden the cursor or left a color.
        os.write(2, first_signals.farewell + b"\x1b[?25h\x1b[0m\n")
    if first_signals.restore_terminal is not None:
        first_signals.restore_terminal()
    os._exit(INTERRUPTED)


class Stop:
    """A request to stop a turn between two events. Any thread may make it.

    Attributes:
        requested: whether the turn must stop at the next event.
    """

    def __init__(self) -> None:
        self.requested = False

    def request(self) -> None:
        """Ask the turn to stop."""
        self.requested = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if the turn must stop."""
        if self.requested:
            raise KeyboardInterrupt

    @contextmanager
    def listening(self, is_live: Callable[[], bool]) -> Iterator[None]:
        """Enclose a turn, which calls `check` after every event.

        Args:
            is_live: returns whether the display redraws rows in place, so that the cursor must stay on the last one.
        """
        yield

    @contextmanager
    def shielding(self) -> Iterator[None]:
        """Enclose the recording of a turn that has ended: a signal during it does not end the program."""
        yield


class SignalStop(Stop):
    """A stop that the first signal requests while a turn listens.

    Needs a call of `handle_signals` on the main thread; the turn may run on another thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_live: Callable[[], bool] = lambda: False

    @contextmanager
    def listening(self, is_live: Callable[[], bool]) -> Iterator[None]:
        """Enclose a turn, as `Stop.listening`."""
        global _finished
        _finished = False
        if _raised:
            raise KeyboardInterrupt
        self._is_live = is_live
        _listeners.append(self)
        try:
            yield
        finally:
            _listeners.remove(self)

    @contextmanager
    def shielding(self) -> Iterator[None]:
        """Enclose the recording of a turn, as `Stop.shielding`."""
        with SignalStop().listening(lambda: False):
            yield

    def request(self) -> None:
        """Ask the turn to stop, and say so on a terminal."""
        super().request()
        if sys.stderr.isatty():
            # Not through sys.stderr: the signal may have interrupted a write to it.
            os.write(2, self._message())

    def _message(self) -> bytes:
        if not self._is_live():
            return f"\n{STOPPING}\n".encode()
        # A line of its own would move the cursor, and the wrong rows would be erased afterwards.
        width = shutil.get_terminal_size().columns
        return f"\r\x1b[0m\x1b[2K{STOPPING[: width - 1]}".encode()


_listeners: list[SignalStop] = []
"""The stops of the turns that run now."""


def handle_signals() -> None:
    """Install the signal handlers.

    The first signal asks a running turn to stop. Without a turn it raises KeyboardInterrupt in the main thread; during
    an import outside `unwinding` it ends the program, because modules may swallow the exception. A second signal ends
    the program.
    """
    global _raised, _finished
    _raised = _finished = False

    def handle(number: int, frame: FrameType | None) -> None:
        global _last, _raised
        if _finished:
            return
        _last = number
        if _at_prompt is not None and number != signal.SIGINT:
            _at_prompt()
            return
        if not _listeners:
            if not _unwinding and _is_importing(frame):
                exit_interrupted()
            _raised = True
            for each in handled_signals():
                signal.signal(each, lambda number, frame: exit_now())
            raise KeyboardInterrupt
        waiting = [each for each in _listeners if not each.requested]
        if not waiting:
            exit_now()
        for listener in waiting:
            listener.request()

    for number in handled_signals():
        signal.signal(number, handle)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
