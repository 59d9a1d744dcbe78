"""Sources of completions: each offers what one word of a command can be."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from prompt_toolkit.completion import CompleteEvent, Completion, PathCompleter
from prompt_toolkit.document import Document

from config.profiles import profile_files
from config.settings import SESSION_SETTINGS, Settings
from sensenova_cli.inputs.argv import PICTURE_ENDINGS
from sensenova_cli.repl.slash_commands.registry import COMMANDS, Source, Typed


def words(meanings: Mapping[str, str]) -> Source:
    """A source of fixed words: word → meaning, which may be empty."""
    return lambda typed: matching(typed.word, meanings.items())


def pictures(typed: Typed) -> Iterator[Completion]:
    """Numbers of the session's pictures, newest first."""
    newest_first = reversed(list(typed.state.pictures.values()))
    return matching(typed.word, [(str(picture.number), picture.file) for picture in newest_first])


def picture_files(typed: Typed) -> Iterator[Completion]:
    """Picture files and folders."""
    return complete_picture_files(typed.word)


def lora_files(typed: Typed) -> Iterator[Completion]:
    """LoRA files and folders."""
    return _complete_files(PathCompleter(expanduser=True, file_filter=_may_be_lora), typed.word)


def all_files(typed: Typed) -> Iterator[Completion]:
    """Files of any kind and folders."""
    return _complete_files(PathCompleter(expanduser=True), typed.word)


def folders(typed: Typed) -> Iterator[Completion]:
    """Folders."""
    return _complete_files(PathCompleter(expanduser=True, only_directories=True), typed.word)


def profiles(typed: Typed) -> Iterator[Completion]:
    """Names of profiles; files once the word is a path."""
    yield from matching(typed.word, [(name, "") for name in (*profile_files(), "none")])
    if "/" in typed.word:
        yield from all_files(typed)


def settable(typed: Typed) -> Iterator[Completion]:
    """Settings that a session can set."""
    return matching(typed.word, [(name, Settings.model_fields[name].description or "") for name in SESSION_SETTINGS])


def values(typed: Typed) -> Iterator[Completion]:
    """Values of the setting that the first word names."""
    return matching(typed.word, [(value, "") for value in choices(typed.text.split()[0])])


def set_in_session(typed: Typed) -> Iterator[Completion]:
    """Settings that this session has set, with their values."""
    return matching(typed.word, [(name, str(value)) for name, value in typed.state.settings.items()])


def command_names(typed: Typed) -> Iterator[Completion]:
    """Names of commands."""
    return complete_commands(typed.word)


def complete_commands(word: str) -> Iterator[Completion]:
    """The commands that begin with a word, which has no slash."""
    return matching(word, [(name, command.help) for name, command in COMMANDS.items()])


def complete_picture_files(word: str) -> Iterator[Completion]:
    """The picture files and folders whose path begins with a word, written as a line takes them."""
    return _complete_files(PathCompleter(expanduser=True, file_filter=_may_be_picture), word)


def matching(word: str, offered: Iterable[tuple[str, str]]) -> Iterator[Completion]:
    """Completions of a word, from pairs of a text and its meaning."""
    for text, meaning in offered:
        if text.startswith(word):
            yield Completion(text, start_position=-len(word), display_meta=meaning)


def choices(name: str) -> list[str]:
    """The values of a setting, where these are words to choose from; else none."""
    field = Settings.model_fields.get(name.replace("-", "_"))
    if field is None:
        return []
    if field.annotation is bool:
        return ["true", "false"]
    kinds: tuple[Any, ...] = (field.annotation, *get_args(field.annotation))
    return [str(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]


def _complete_files(completer: PathCompleter, word: str) -> Iterator[Completion]:
    """Paths as a line takes them: with backslashes where a shell needs them, or inside the quote that is open."""
    quote = word[:1] if word[:1] in ("'", '"') else ""
    typed = word[1:] if quote else re.sub(r"\\(.)", r"\1", word)
    for found in completer.get_completions(Document(typed), CompleteEvent()):
        text = found.text if quote else re.sub(r"([\s'\"\\])", r"\\\1", found.text)
        yield Completion(text, start_position=0, display=found.display)


def _may_be_picture(name: str) -> bool:
    path = Path(name)
    return path.is_dir() or path.suffix.lower() in PICTURE_ENDINGS


def _may_be_lora(name: str) -> bool:
    path = Path(name)
    return path.is_dir() or path.suffix == ".safetensors"
