"""The parser of a session's lines: a slash command, a question or a prompt, with picture files first and flags last."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.argv import PICTURE_ENDINGS

_FLAG = re.compile(r"(?:^|\s)(?=--[a-z]|-[nof](?:\s|$))")
"""The start of a line's flags: two dashes and a letter, or one of the short options."""
_WORD = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'[^']*'|(?:\\.|[^\s\\])+)""")

BARE_COMMANDS = {"exit": "quit", "quit": "quit", ":q": "quit", "help": "help", "?": "help", "clear": "clear"}
"""Lines that are commands without a slash: line → command. `/generate help` draws the word."""


@dataclass(frozen=True)
class Line:
    """A parsed line.

    Attributes:
        kind: `command` if the line starts with a slash or is one of BARE_COMMANDS, `question` if it starts with a
            question mark, else `prompt`.
        text: the line without its command, files and flags.
        command: the command's name without its slash.
        files: picture files at the beginning. They belong to the next line if this one contains nothing else.
        flags: the flags at the end, split as by a shell.
    """

    kind: Literal["command", "question", "prompt"]
    text: str
    command: str = ""
    files: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether the line contains nothing."""
        return not (self.command or self.text or self.files or self.flags)


def parse_line(typed: str) -> Line:
    """Parse a line.

    Raises:
        UsageError: a quote among its flags is not closed, it begins with the name of a picture that does not exist, or
            it is a shell command (`!ls`).
    """
    typed = typed.strip()
    if command := BARE_COMMANDS.get(typed.lower()):
        return Line("command", "", command=command)
    if typed.startswith("!"):
        raise UsageError(
            "shell commands do not run here",
            "Ctrl-Z goes to the shell, and fg comes back; to use the text as a prompt, type /generate before it",
        )
    first = _first_word(typed)
    if typed.startswith("/") and not _is_picture(first):
        name, *rest_of_line = re.split(r"[ \n]", typed[1:], maxsplit=1)
        text, flags = _split_flags("".join(rest_of_line))
        return Line("command", text, command=name, flags=flags)
    if Path(first).suffix.lower() in PICTURE_ENDINGS and not _is_picture(first):
        raise UsageError(f"there is no picture file {first}", "check its name, or begin with another word")
    files, rest = _leading_pictures(typed)
    kind: Literal["question", "prompt"] = "prompt"
    if rest.startswith("?"):
        kind, rest = "question", rest[1:]
    text, flags = _split_flags(rest)
    return Line(kind, text, files=files, flags=flags)


def split_words(text: str) -> list[str]:
    """Split text into words, with quotes and backslashes as in a shell.

    Raises:
        UsageError: a quote is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError:
        raise UsageError("a quote is not closed", "close it, or put a backslash before it") from None


def looks_like_path(word: str) -> bool:
    """Return whether a word that starts with a slash is more likely a file than a command.

    A file has another slash or a picture's ending.
    """
    return "/" in word[1:] or Path(word).suffix.lower() in PICTURE_ENDINGS


def _first_word(text: str) -> str:
    found = _WORD.match(text)
    return _unquoted(found[1]) if found else ""


def _leading_pictures(text: str) -> tuple[tuple[str, ...], str]:
    """Return the existing picture files at the beginning of the text, and the rest of the text."""
    files: list[str] = []
    while found := _WORD.match(text):
        word = _unquoted(found[1])
        if not _is_picture(word):
            break
        files.append(word)
        text = text[found.end() :]
    return tuple(files), text.strip()


def _is_picture(word: str) -> bool:
    try:
        path = Path(word).expanduser()
        return path.suffix.lower() in PICTURE_ENDINGS and path.is_file()
    except (OSError, RuntimeError, ValueError):  # too long for a file name, ~nobody, a NUL
        return False


def _unquoted(word: str) -> str:
    """Return a file name without the quotes or backslashes that a terminal adds when a file is dropped on it."""
    if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'":
        word = word[1:-1] if word[0] == "'" else re.sub(r"\\(.)", r"\1", word[1:-1])
    else:
        word = re.sub(r"\\(.)", r"\1", word)
    return unquote(word.removeprefix("file://")) if word.startswith("file://") else word


def _split_flags(text: str) -> tuple[str, tuple[str, ...]]:
    """Split a text from the flags at its end. Words in double quotes are no flags; quotes around the whole text are
    removed, so that `"rock -n roll" -n 2` can be typed."""
    starts = list(_FLAG.finditer(text))
    if not starts:
        return _without_quotes(text.strip()), ()
    # A quote that is not closed, as in `a 5" pipe --seed 7`, is part of the text.
    outside = [found for found in starts if text.count('"', 0, found.start()) % 2 == 0]
    if not outside and _is_quoted(text.strip()):
        return _without_quotes(text.strip()), ()
    found = outside[0] if outside else starts[0]
    return _without_quotes(text[: found.start()].strip()), tuple(split_words(text[found.end() :]))


def _is_quoted(text: str) -> bool:
    return len(text) > 2 and text[0] == text[-1] == '"' and text.count('"') == 2


def _without_quotes(text: str) -> str:
    return text[1:-1] if _is_quoted(text) else text
