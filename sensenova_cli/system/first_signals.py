"""Signals before the program has begun anything: the first one ends the process at once, because nothing needs cleanup.

This module imports almost nothing, so that signals are handled as early as possible.
"""

import contextlib
import os
import signal
from collections.abc import Callable
from types import FrameType

INTERRUPTED = 130
"""The same value as in `sensenova_cli.errors`, whose import takes a while."""

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that ask a program to end, as far as this system has them. They are not in `config.operating_system`, because
`config` may still be found in the current folder when this module runs, and that may be a stranger's folder."""


farewell = b""
"""Bytes for the terminal before the process ends at once: they clear the progress that it shows."""

restore_terminal: Callable[[], None] | None = None
"""Restores the terminal's modes before the process ends at once; None if they are unchanged."""


def handled_signals() -> list[signal.Signals]:
    """Return the signals to handle. Ignored ones stay ignored: nohup ignores SIGHUP, and a script's `command &` ignores
    Ctrl-C."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def exit_on_signals() -> None:
    """Install handlers that end the process at once."""
    for number in handled_signals():
        signal.signal(number, exit_interrupted)


def ignore_signals() -> list[signal.Signals]:
    """Ignore signals while results are flushed; return the ones that were not ignored before."""
    handled = handled_signals()
    for number in handled:
        signal.signal(number, signal.SIG_IGN)
    return handled


def exit_interrupted(number: int = 0, frame: FrameType | None = None) -> None:
    """Print that the program was interrupted, and end the process. This is also a signal handler."""
    with contextlib.suppress(OSError):
        os.write(2, farewell + b"interrupted\n")
    if restore_terminal is not None:
        restore_terminal()
    os._exit(INTERRUPTED)
