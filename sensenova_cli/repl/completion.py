"""What Tab offers: commands, settings and their values, pictures, profiles, files and flags."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from config.profile_files import profile_files
from config.schema import SETTING_NAMES, Settings
from model import OFFICIAL_MODEL
from sensenova_cli.arguments import PICTURE_ENDINGS
from sensenova_cli.flags import SIZE_OPTIONS
from sensenova_cli.repl.commands import COMMANDS
from sensenova_cli.repl.lines import parse_line
from sensenova_cli.repl.repl import FIXED, Repl
from sensenova_cli.repl.typed import LINE_OPTIONS


class LineCompleter(Completer):
    """Completes lines of one session."""

    def __init__(self, repl: Repl) -> None:
        self._repl = repl
        self._pictures = PathCompleter(expanduser=True, file_filter=_may_be_picture)
        self._folders = PathCompleter(expanduser=True, only_directories=True)
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        word = _last_word(text)
        named = re.match(r"/(\w+)\s", text)
        if re.fullmatch(r"/\w*", text):
            commands = list(_matching(text[1:], _COMMANDS))
            yield from commands or self._files(self._pictures, word, complete_event)
        elif named and named[1] in COMMANDS:
            yield from self._arguments(named[1], text[named.end() :].lstrip(), complete_event)
        elif word.startswith("--") or _flag_before(text):
            yield from _flags(self._task(text), text)
        elif word.lstrip("'\"")[:2] in ("~/", "./", "..") or word.lstrip("'\"").startswith("/"):
            yield from self._files(self._pictures, word, complete_event)

    def _task(self, text: str) -> str:
        """What a line of words asks for."""
        line = parse_line(re.split(r"(?:^|\s)-", text, maxsplit=1)[0])
        if line.kind == "question":
            return "describe"
        if self._repl.mode == "chat":
            return "chat"
        state = self._repl.session.state
        return "edit" if line.files or state.hand or state.staged else "generate"

    def _arguments(self, name: str, rest: str, event: CompleteEvent) -> Iterator[Completion]:
        word = _last_word(rest)
        first = word == rest
        state = self._repl.session.state
        match COMMANDS[name].argument:
            case "words" | "switch" if word.startswith("--") or _flag_before(rest):
                yield from _flags(name if name in LINE_OPTIONS else "generate", rest)
            case "switch" if first:
                yield from _matching(word, [("on", ""), ("off", "")])
            case "picture" if first:
                yield from self._numbers(word)
                yield from _matching(word, [("none", "put the picture down")])
            case "save":
                if first:
                    yield from self._numbers(word)
                yield from self._files(self._paths, word, event)
            case "stage":
                yield from self._numbers(word)
                if first:
                    yield from _matching(word, [("none", "stage nothing")])
                yield from self._files(self._pictures, word, event)
            case "file" if first:
                yield from self._files(self._pictures, word, event)
            case "set" if first:
                names = [(name, Settings.model_fields[name].description or "") for name in SETTING_NAMES]
                yield from _matching(word, [each for each in names if each[0] not in FIXED])
            case "set":
                yield from _matching(word, [(each, "") for each in _choices(rest.split()[0])])
            case "setting":
                yield from _matching(word, [(each, str(value)) for each, value in state.settings.items()])
                if first:
                    yield from _matching(word, [("all", "")])
            case "profile" if first:
                yield from _matching(word, [(each, "") for each in (*profile_files(), "none")])
                if "/" in word:
                    yield from self._files(self._paths, word, event)
            case "model" if first:
                yield from _matching(word, [("demo", "built in"), (OFFICIAL_MODEL, "35 GB")])
                yield from self._files(self._folders, word, event)
            case "command" if first:
                yield from _matching(word, _COMMANDS)

    def _numbers(self, word: str) -> Iterator[Completion]:
        pictures = reversed(list(self._repl.session.state.pictures.values()))
        yield from _matching(word, [(str(picture.number), picture.file) for picture in pictures])

    @staticmethod
    def _files(completer: PathCompleter, word: str, event: CompleteEvent) -> Iterator[Completion]:
        """Files as a line takes them: what a shell would not read as it stands gets backslashes, or is in quotes."""
        quote = word[:1] if word[:1] in ("'", '"') else ""
        typed = word[1:] if quote else re.sub(r"\\(.)", r"\1", word)
        for found in completer.get_completions(Document(typed), event):
            text = found.text if quote else re.sub(r"([\s'\"\\])", r"\\\1", found.text)
            yield Completion(text, start_position=0, display=found.display)


_COMMANDS = [(name, command.help) for name, command in COMMANDS.items()]
_WORD_AT_END = re.compile(r"""(?:^|(?<=\s))('[^']*|"[^"]*|(?:\\.|[^\s\\])*\\?)$""")


def _last_word(text: str) -> str:
    """The word before the cursor, with its backslashes or its opening quote; empty behind a space."""
    flag = re.search(r"(?:^|\s)(--\S*)$", text)  # an apostrophe in front of it opens no quote
    found = flag or _WORD_AT_END.search(text)
    return found[1] if found else ""


def _flags(task: str, text: str) -> Iterator[Completion]:
    """Flags of a task, or the values of the one before the cursor."""
    word = _last_word(text)
    if flag := _flag_before(text):
        yield from _matching(word, [(each, "") for each in _flag_values(flag)])
        return
    yield from _matching(word, [("--" + name.replace("_", "-"), _description(name)) for name in LINE_OPTIONS[task]])


def _flag_before(text: str) -> str:
    """The flag whose value is being typed at the end of a text, if there is one with values to choose from."""
    found = re.search(r"(?:^|\s)(--[a-z-]+)\s+\S*$", text)
    return found[1] if found and _flag_values(found[1]) else ""


def _flag_values(flag: str) -> list[str]:
    """Values to choose from; none for a switch, which takes none."""
    name = flag.removeprefix("--").replace("-", "_")
    if name == "profile":
        return list(profile_files())
    field = Settings.model_fields.get(name)
    return [] if field is None or field.annotation is bool else _choices(name)


def _choices(name: str) -> list[str]:
    """What a setting can be, where that is a choice between words."""
    field = Settings.model_fields.get(name.replace("-", "_"))
    if field is None:
        return []
    if field.annotation is bool:
        return ["true", "false"]
    kinds: tuple[Any, ...] = (field.annotation, *get_args(field.annotation))
    return [str(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]


def _description(name: str) -> str:
    if name in SIZE_OPTIONS and name not in Settings.model_fields:
        return f"picture size by {name}"
    field = Settings.model_fields.get(name)
    return (field.description or "") if field else ""


def _matching(word: str, offered: Iterable[tuple[str, str]]) -> Iterator[Completion]:
    for text, meaning in offered:
        if text.startswith(word):
            yield Completion(text, start_position=-len(word), display_meta=meaning)


def _may_be_picture(name: str) -> bool:
    path = Path(name)
    return path.is_dir() or path.suffix.lower() in PICTURE_ENDINGS
