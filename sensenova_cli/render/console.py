"""The console on stderr, and what a terminal can do."""

import os
import sys

from rich.console import Console


def stderr_console() -> Console:
    """A console that writes to stderr, without guessing at numbers and paths to colour."""
    return Console(stderr=True, highlight=False)


def is_animated() -> bool:
    """Whether stderr is a screen on which lines can be redrawn."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def printable(text: str) -> str:
    """Text of a model without control characters, which could move the cursor or change the screen."""
    return "".join(letter for letter in text if letter in "\n\t" or letter.isprintable() or ord(letter) >= 0xA0)
