"""What Tab offers: commands, settings and their values, pictures, profiles, files and flags."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from config.profile_files import profile_files
from config.schema import SETTING_NAMES, Settings
from model.weights.hub import OFFICIAL_MODEL
from sensenova_cli.arguments import PICTURE_ENDINGS
from sensenova_cli.flags import SIZE_OPTIONS
from sensenova_cli.repl.commands import COMMANDS
from sensenova_cli.repl.repl import FIXED, Repl
from sensenova_cli.repl.typed import EVERY_LINE, LINE_OPTIONS


class LineCompleter(Completer):
    """Completes lines of one session."""

    def __init__(self, repl: Repl) -> None:
        self._repl = repl
        self._pictures = PathCompleter(expanduser=True, file_filter=_may_be_picture)
        self._folders = PathCompleter(expanduser=True, only_directories=True)
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        word = text.rsplit(" ", 1)[-1]
        if text.startswith("/") and " " not in text and "/" not in text[1:]:
            yield from _matching(text[1:], [(name, command.help) for name, command in COMMANDS.items()])
        elif text.startswith("/") and " " in text and text[1:].split(" ", 1)[0] in COMMANDS:
            name, rest = text[1:].split(" ", 1)
            yield from self._arguments(name, rest, complete_event)
        elif word.startswith("--") or _flag_before(text):
            yield from _flags(self._task(), text)
        elif word[:2] in ("~/", "./", "..") or word.startswith("/"):
            yield from self._files(self._pictures, word, complete_event)

    def _task(self) -> str:
        if self._repl.mode == "chat":
            return "chat"
        state = self._repl.session.state
        return "edit" if state.hand or state.staged else "generate"

    def _arguments(self, name: str, rest: str, event: CompleteEvent) -> Iterator[Completion]:
        word = rest.rsplit(" ", 1)[-1]
        first = " " not in rest
        state = self._repl.session.state
        match COMMANDS[name].argument:
            case "words" | "switch" if word.startswith("--") or _flag_before(rest):
                yield from _flags(name if name in LINE_OPTIONS else "generate", rest)
            case "switch" if first:
                yield from _matching(word, [("on", ""), ("off", "")])
            case "picture" if first:
                yield from self._numbers(word)
                yield from _matching(word, [("none", "put the picture down")])
            case "save" if first and word.isdigit():
                yield from self._numbers(word)
            case "save":
                yield from self._files(self._paths, word, event)
            case "file":
                yield from self._numbers(word)
                yield from self._files(self._pictures, word, event)
            case "set" if first:
                names = [(name, Settings.model_fields[name].description or "") for name in SETTING_NAMES]
                yield from _matching(word, [each for each in names if each[0] not in FIXED])
            case "set":
                yield from _values(rest.split(" ", 1)[0], word)
            case "setting":
                yield from _matching(word, [(each, str(value)) for each, value in state.settings.items()])
            case "profile" if first:
                yield from _matching(word, [(each, "") for each in (*profile_files(), "none")])
            case "model" if first:
                yield from _matching(word, [("demo", "built in"), (OFFICIAL_MODEL, "35 GB")])
                yield from self._files(self._folders, word, event)
            case "command" if first:
                yield from _matching(word, [(each, command.help) for each, command in COMMANDS.items()])

    def _numbers(self, word: str) -> Iterator[Completion]:
        pictures = reversed(list(self._repl.session.state.pictures.values()))
        yield from _matching(word, [(str(picture.number), picture.file) for picture in pictures])

    @staticmethod
    def _files(completer: PathCompleter, word: str, event: CompleteEvent) -> Iterator[Completion]:
        yield from completer.get_completions(Document(word), event)


def _flags(task: str, text: str) -> Iterator[Completion]:
    """Flags of a task, or the values of the one before the cursor."""
    if flag := _flag_before(text):
        name = flag.removeprefix("--").replace("-", "_")
        yield from _values(name, text.rsplit(" ", 1)[-1])
        return
    word = text.rsplit(" ", 1)[-1]
    names = [*LINE_OPTIONS[task], *EVERY_LINE]
    described = [("--" + name.replace("_", "-"), _description(name)) for name in names]
    yield from _matching(word, described)


def _flag_before(text: str) -> str:
    """The flag whose value is being typed at the end of a text, if there is one with values to choose from."""
    words = text.split(" ")
    if len(words) < 2 or not words[-2].startswith("--"):
        return ""
    name = words[-2].removeprefix("--").replace("-", "_")
    return words[-2] if _choices(name) else ""


def _values(name: str, word: str) -> Iterator[Completion]:
    yield from _matching(word, [(each, "") for each in _choices(name.replace("-", "_"))])


def _choices(name: str) -> list[str]:
    field = Settings.model_fields.get(name)
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
