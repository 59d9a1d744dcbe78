"""The console on stderr, and properties of the terminal."""

import os
import sys

from rich.console import Console
from rich.text import Text

from sensenova_cli.system.unicode import printable


def stderr_console() -> Console:
    """Return a console that writes to stderr and does not color numbers and paths by itself."""
    return Console(stderr=True, highlight=False)


def print_message(console: Console, message: Text) -> None:
    """Print a message: wrapped at words on a screen, as one line for a program."""
    console.print(message, soft_wrap=not console.is_terminal)


def print_note(console: Console, text: str) -> None:
    """Print a note: something worth knowing that is not an error."""
    print_message(console, Text.assemble(("note:", "yellow"), " ", printable(text)))


def is_animated() -> bool:
    """Return whether stderr is a screen that can redraw lines."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
