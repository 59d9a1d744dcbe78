"""The console on stderr, and properties of the terminal."""

import os
import sys

from rich.console import Console


def stderr_console() -> Console:
    """Return a console that writes to stderr and does not colour numbers and paths by itself."""
    return Console(stderr=True, highlight=False)


def is_animated() -> bool:
    """Return whether stderr is a screen that can redraw lines."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
