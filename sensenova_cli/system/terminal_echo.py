"""The terminal's echo of typed keys. It is off while a line of a session runs: an echoed key would appear in the middle
of the output, and an echoed Enter moves the cursor, so that the progress would erase the wrong rows."""

import contextlib
import sys
from collections.abc import Iterator

from config.operating_system import set_echo
from sensenova_cli.system import first_signals


@contextlib.contextmanager
def hidden_keys() -> Iterator[None]:
    """Enclose work during which typed keys are not echoed. They are kept for the next prompt. Without a terminal on
    standard input, nothing changes."""
    try:
        restore = set_echo(sys.stdin.fileno(), False)
    except (OSError, ValueError):  # standard input is not a terminal, or is closed
        yield
        return
    # A second Ctrl-C ends the process at once, without the end of this block.
    first_signals.restore_terminal = restore
    try:
        yield
    finally:
        first_signals.restore_terminal = None
        restore()


@contextlib.contextmanager
def visible_keys() -> Iterator[None]:
    """Enclose a question that is read from standard input: its answer is echoed, also within `hidden_keys`."""
    if first_signals.restore_terminal is None:  # the keys are visible
        yield
        return
    try:
        restore = set_echo(sys.stdin.fileno(), True)
    except (OSError, ValueError):
        yield
        return
    try:
        yield
    finally:
        restore()
