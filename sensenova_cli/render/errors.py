"""Printing of errors on stderr: the problem, then what to type next."""

from rich.text import Text

from sensenova_cli.render.console import print_message, stderr_console
from sensenova_cli.render.spelling import Spelling, as_flags
from sensenova_cli.system.unicode import printable


def print_error(what: str, hint: str = "", spelling: Spelling = as_flags) -> None:
    """Print `error: …` and, if not empty, `hint: …`; `spelling` spells the settings that they mention."""
    console = stderr_console()
    for label, style, text in (("error", "bold red", what), ("hint", "cyan", hint)):
        if text:
            print_message(console, Text.assemble((f"{label}:", style), " ", printable(spelling(text))))


def describe(error: Exception) -> str:
    """Return the message of an error that no code has reported: the file and the reason, or the kind of error."""
    # Code that uses files reports their errors itself; this describes the rest.
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"unexpected {type(error).__name__}: {error or 'no message'}"
