"""Completion of lines with Tab: commands and their arguments, picture files, and flags."""

import re
from collections.abc import Iterable, Iterator, Sequence

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from config.profiles import profile_files
from config.settings import Settings
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import SIZE_OPTIONS
from sensenova_cli.repl.dispatch import command_name
from sensenova_cli.repl.lines import parse_line
from sensenova_cli.repl.repl import Repl
from sensenova_cli.repl.slash_commands import COMMANDS, find_command
from sensenova_cli.repl.slash_commands.completion_sources import (
    choices,
    complete_commands,
    complete_picture_files,
    matching,
)
from sensenova_cli.repl.slash_commands.registry import Arguments


class LineCompleter(Completer):
    """Completes the lines of one session."""

    def __init__(self, repl: Repl) -> None:
        self._repl = repl

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield completions of the word before the cursor."""
        text = document.text_before_cursor
        word = _last_word(text)
        named = re.match(r"/(\w+)\s", text)
        if re.fullmatch(r"/\w*", text):
            commands = list(complete_commands(text[1:]))
            yield from commands or complete_picture_files(word)
        elif named and named[1] in COMMANDS:
            yield from self._arguments(named[1], text[named.end() :].lstrip())
        elif word.startswith("--") or _flag_before_cursor(text):
            yield from _flags(self._options(text), text)
        elif word.lstrip("'\"")[:2] in ("~/", "./", "..") or word.lstrip("'\"").startswith("/"):
            yield from complete_picture_files(word)

    def _options(self, text: str) -> Sequence[str]:
        """Return the options that may end a prompt or question; none for an invalid line."""
        try:
            line = parse_line(re.split(r"(?:^|\s)-", text, maxsplit=1)[0])
            command = find_command(command_name(line, self._repl.mode, self._repl.session.state))
        except UsageError:
            return ()
        return command.options

    def _arguments(self, name: str, text: str) -> Iterator[Completion]:
        command, word = COMMANDS[name], _last_word(text)
        if command.options and (word.startswith("--") or _flag_before_cursor(text)):
            yield from _flags(command.options, text)
            return
        for source in command.first if word == text else command.later:
            yield from source(Arguments(self._repl.session.state, text, word))


_WORD_AT_END = re.compile(r"""(?:^|(?<=\s))('[^']*|"[^"]*|(?:\\.|[^\s\\])*\\?)$""")


def _last_word(text: str) -> str:
    """Return the word before the cursor, with its backslashes or opening quote; empty after a space."""
    flag = re.search(r"(?:^|\s)(--\S*)$", text)  # an apostrophe earlier in the text is not an opening quote
    found = flag or _WORD_AT_END.search(text)
    return found[1] if found else ""


def _flags(options: Sequence[str], text: str) -> Iterator[Completion]:
    """Complete the flags of these options, or the values of the flag before the cursor."""
    word = _last_word(text)
    if flag := _flag_before_cursor(text):
        return matching(word, [(each, "") for each in _flag_values(flag)])
    return matching(word, [("--" + name.replace("_", "-"), _description(name)) for name in options])


def _flag_before_cursor(text: str) -> str:
    """Return the flag whose value the user is typing. Empty if there is no such flag or its values cannot be listed."""
    found = re.search(r"(?:^|\s)(--[a-z-]+)\s+\S*$", text)
    return found[1] if found and _flag_values(found[1]) else ""


def _flag_values(flag: str) -> list[str]:
    """Return the possible values of a flag; none if they cannot be listed, or if it is a switch."""
    name = flag.removeprefix("--").replace("-", "_")
    if name == "profile":
        return list(profile_files())
    field = Settings.model_fields.get(name)
    return [] if field is None or field.annotation is bool else choices(name)


def _description(name: str) -> str:
    if name in SIZE_OPTIONS and name not in Settings.model_fields:
        return f"picture size by {name}"
    field = Settings.model_fields.get(name)
    return (field.description or "") if field else ""
