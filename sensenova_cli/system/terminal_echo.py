"""The terminal's echo of typed keys. It is off while a line of a session runs: an echoed key would appear in the middle
of the output, and an echoed Enter moves the cursor, so that the progress would erase the wrong rows."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from sensenova_cli.system import first_signals

try:
    import termios
except ImportError:  # systems without terminals of this kind
    termios = None  # type: ignore[assignment]

LOCAL_MODES = 3
"""Index of the local modes in the attributes of a terminal."""


@contextlib.contextmanager
def hidden_keys() -> Iterator[None]:
    """Enclose work during which typed keys are not echoed. They are kept for the next prompt."""
    with _echo(on=False):
        yield


@contextlib.contextmanager
def visible_keys() -> Iterator[None]:
    """Enclose a question that is read from standard input, whose answer is echoed."""
    with _echo(on=True):
        yield


@contextlib.contextmanager
def _echo(*, on: bool) -> Iterator[None]:
    """Turn the echo on or off, and restore it. Without a terminal, nothing changes."""
    before = _attributes()
    if before is None:
        yield
        return
    wanted = list(before)
    wanted[LOCAL_MODES] = before[LOCAL_MODES] | termios.ECHO if on else before[LOCAL_MODES] & ~termios.ECHO
    outer = first_signals.restore_terminal
    if not on:
        # A second Ctrl-C ends the process at once, without unwinding.
        first_signals.restore_terminal = lambda: _apply(before)
    _apply(wanted)
    try:
        yield
    finally:
        _apply(before)
        first_signals.restore_terminal = outer


def _attributes() -> list[Any] | None:
    """Return the attributes of the terminal on standard input; None if there is none."""
    if termios is None or sys.stdin is None:
        return None
    with contextlib.suppress(termios.error, OSError, ValueError):
        return termios.tcgetattr(sys.stdin.fileno())
    return None


def _apply(attributes: list[Any]) -> None:
    """Set the attributes of the terminal; nothing if it has been closed. Typed keys are kept."""
    with contextlib.suppress(termios.error, OSError, ValueError):
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, attributes)
