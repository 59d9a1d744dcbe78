"""Completion sources: functions that return the possible values of one word of a command."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from prompt_toolkit.completion import CompleteEvent, Completion, PathCompleter
from prompt_toolkit.document import Document

from config.profiles import profile_files
from config.settings import SESSION_SETTINGS, Settings
from sensenova_cli.inputs.argv import PICTURE_ENDINGS
from sensenova_cli.inputs.completion import complete_loras, complete_models
from sensenova_cli.repl.slash_commands.registry import COMMANDS, Arguments, CompletionSource


def fixed_words(meanings: Mapping[str, str]) -> CompletionSource:
    """Return a source of fixed words: word → meaning, which may be empty."""
    return lambda arguments: matching(arguments.word, meanings.items())


def pictures(arguments: Arguments) -> Iterator[Completion]:
    """Complete numbers of the session's pictures, newest first."""
    newest_first = reversed(list(arguments.state.pictures.values()))
    return matching(arguments.word, [(str(picture.number), picture.file) for picture in newest_first])


def picture_files(arguments: Arguments) -> Iterator[Completion]:
    """Complete picture files and folders."""
    return complete_picture_files(arguments.word)


def lora_files(arguments: Arguments) -> Iterator[Completion]:
    """Complete aliases and short names of LoRAs, files and folders."""
    yield from matching(arguments.word, [(name, "") for name in complete_loras(arguments.word)])
    yield from _complete_files(PathCompleter(expanduser=True, file_filter=_may_be_lora), arguments.word)


def all_files(arguments: Arguments) -> Iterator[Completion]:
    """Complete files of any kind and folders."""
    return _complete_files(PathCompleter(expanduser=True), arguments.word)


def folders(arguments: Arguments) -> Iterator[Completion]:
    """Complete folders."""
    return _complete_files(PathCompleter(expanduser=True, only_directories=True), arguments.word)


def models(arguments: Arguments) -> Iterator[Completion]:
    """Complete the demo, aliases, the published models, and the models in the Hub cache."""
    return matching(arguments.word, [(name, "") for name in complete_models(arguments.word)])


def profiles(arguments: Arguments) -> Iterator[Completion]:
    """Complete names of profiles; also files if the word is a path."""
    yield from matching(arguments.word, [(name, "") for name in (*profile_files(), "none")])
    if "/" in arguments.word:
        yield from all_files(arguments)


def setting_names(arguments: Arguments) -> Iterator[Completion]:
    """Complete names of settings that `/set` can change."""
    described = [(name, Settings.model_fields[name].description or "") for name in SESSION_SETTINGS]
    return matching(arguments.word, described)


def setting_values(arguments: Arguments) -> Iterator[Completion]:
    """Complete values of the setting that the first word names."""
    return matching(arguments.word, [(value, "") for value in choices(arguments.text.split()[0])])


def names_set_in_session(arguments: Arguments) -> Iterator[Completion]:
    """Complete names of settings that this session has set, and show their values."""
    return matching(arguments.word, [(name, str(value)) for name, value in arguments.state.settings.items()])


def command_names(arguments: Arguments) -> Iterator[Completion]:
    """Complete names of commands."""
    return complete_commands(arguments.word)


def complete_commands(word: str) -> Iterator[Completion]:
    """Yield the commands that begin with a word, which has no slash."""
    return matching(word, [(name, command.help) for name, command in COMMANDS.items()])


def complete_picture_files(word: str) -> Iterator[Completion]:
    """Yield the picture files and folders whose path begins with a word. Paths are quoted or escaped as in the line."""
    return _complete_files(PathCompleter(expanduser=True, file_filter=_may_be_picture), word)


def matching(word: str, offered: Iterable[tuple[str, str]]) -> Iterator[Completion]:
    """Yield completions of a word, from pairs of a text and its meaning."""
    for text, meaning in offered:
        if text.startswith(word):
            yield Completion(text, start_position=-len(word), display_meta=meaning)


def choices(name: str) -> list[str]:
    """Return the words that a setting allows; an empty list if its values are not words."""
    field = Settings.model_fields.get(name.replace("-", "_"))
    if field is None:
        return []
    if field.annotation is bool:
        return ["true", "false"]
    kinds: tuple[Any, ...] = (field.annotation, *get_args(field.annotation))
    return [str(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]


def _complete_files(completer: PathCompleter, word: str) -> Iterator[Completion]:
    """Yield paths for the end of a line: inside its open quote, or with backslashes as in a shell."""
    quote = word[:1] if word[:1] in ("'", '"') else ""
    path = word[1:] if quote else re.sub(r"\\(.)", r"\1", word)
    for found in completer.get_completions(Document(path), CompleteEvent()):
        text = found.text if quote else re.sub(r"([\s'\"\\])", r"\\\1", found.text)
        yield Completion(text, start_position=0, display=found.display)


def _may_be_picture(name: str) -> bool:
    path = Path(name)
    return path.is_dir() or path.suffix.lower() in PICTURE_ENDINGS


def _may_be_lora(name: str) -> bool:
    path = Path(name)
    return path.is_dir() or path.suffix == ".safetensors"
