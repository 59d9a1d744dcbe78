"""Prompts from the command line, standard input or a prompt file."""

import json
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.declarations import IMAGE
from sensenova_cli.errors import UsageError
from sensenova_cli.system.streams import CLIPBOARD, MAX_TEXT_BYTES, STDIN, read_stdin


@dataclass(frozen=True)
class Prompt:
    """One prompt. A line of a prompt file can also have input pictures and settings for its prompt.

    Attributes:
        images: files of the line's input pictures.
        settings: checked settings of the line, by name.
        place: prefix of messages about the prompt, such as `prompts.jsonl:3: `; empty without a prompt file.
    """

    text: str
    images: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""


def given_prompts(argument: str | Sequence[str] | None, option: str | None, file: str | None) -> list[Prompt]:
    """Return the prompts of a command, from its argument, `--prompt` or `--prompt-file`; empty if none is given.

    Args:
        argument: one word, or a list of words of which each is a prompt.

    Raises:
        UsageError: more than one of the three is given, the file cannot be read or contains no prompt, or several words
            seem to be one prompt without quotes.
        SettingsError: a line of the file has a setting with a wrong name, type or value.
    """
    words = [argument] if isinstance(argument, str) else list(argument or ())
    sources = {"as an argument": words or None, "with --prompt": option, "with --prompt-file": file}
    given = [name for name, value in sources.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"the prompt is given more than once: {' and '.join(given)}", "give it once")
    if file is not None:
        return read_prompt_file(file)
    refuse_stdin_twice(*words)
    if len(words) > 1 and _lacks_quotes(words):
        raise UsageError(
            f"these words are {len(words)} prompts, or one without quotes: {' '.join(words)}",
            "put the prompt in quotes; several short prompts go into a file: --prompt-file FILE",
        )
    return [Prompt(read_text(text)) for text in (words or ([] if option is None else [option]))]


def _lacks_quotes(words: Sequence[str]) -> bool:
    """Return whether several words are probably one prompt: none has a space. Some scripts have no spaces."""
    has_space = any(map(str.isspace, "".join(words)))
    return not has_space and not all(any(map(_is_wide, word)) for word in words)


def _is_wide(letter: str) -> bool:
    return unicodedata.east_asian_width(letter) in "WF"


def piped_prompt() -> list[Prompt]:
    """Return the prompt that another program pipes in; empty if standard input is a terminal, closed or empty."""
    if sys.stdin is None or sys.stdin.isatty():
        return []
    text = read_text(STDIN)
    return [Prompt(text)] if text.strip() else []


def read_text(text: str) -> str:
    """Return the text itself, or for `-` the text on standard input without its final line end. Line ends of Windows
    become those of other systems, so that the same text gives the same picture."""
    return _read_stdin().replace("\r\n", "\n").rstrip("\r\n") if text == STDIN else text


def refuse_stdin_twice(*values: str | None) -> None:
    """Raise UsageError if more than one value is `-`: standard input can be read only once."""
    if values.count(STDIN) > 1:
        raise UsageError("standard input (-) can be used only once", "use files for the other values")


def read_prompt_file(file: str) -> list[Prompt]:
    """Read one prompt per line; `#` starts a comment line. Lines are JSON objects with settings if the file ends in
    .jsonl, or if the first prompt on standard input starts with a brace. A .json file is one such object, or a list of
    them.

    Raises:
        UsageError: the file cannot be read, a line is not a JSON object with a prompt, or there is no prompt.
        SettingsError: a setting has a wrong name, type or value.
    """
    name = "standard input" if file == STDIN else file
    if Path(file).suffix.lower() == ".json":
        return _read_list(file)
    numbered = ((f"{name}:{number}: ", line.strip()) for number, line in enumerate(_read_lines(file), start=1))
    lines = [(place, line) for place, line in numbered if line and not line.startswith("#")]
    if not lines:
        raise UsageError(f"{name} contains no prompt", "write one prompt per line")
    is_json = lines[0][1].startswith("{") if file == STDIN else Path(file).suffix.lower() == ".jsonl"
    return [_parse_object(line, place) if is_json else Prompt(line, place=place) for place, line in lines]


def _read_list(file: str) -> list[Prompt]:
    hint = "write an object with a prompt, a list of them, or one object a line in a .jsonl file"
    try:
        content = json.loads("\n".join(_read_lines(file)))
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"{file}: this is not JSON: {reason}", hint) from error
    if isinstance(content, dict):
        return [_prompt_of(content, f"{file}: ")]
    if not isinstance(content, list):
        raise UsageError(f"{file} is neither an object with a prompt nor a list of them", hint)
    if not content:
        raise UsageError(f"{file} contains no prompt", hint)
    return [_prompt_of(each, f"{file}: item {number}: ") for number, each in enumerate(content, start=1)]


def _read_lines(file: str) -> list[str]:
    if file == STDIN:
        return _read_stdin().split("\n")
    try:
        with Path(file).expanduser().open("rb") as stream:
            content = stream.read(MAX_TEXT_BYTES + 1)
        if len(content) > MAX_TEXT_BYTES:
            raise UsageError(f"the prompt file {file} has more than {MAX_TEXT_BYTES:,} bytes", "split it")
        # utf-8-sig: some editors on Windows write a byte-order mark, which would be part of the first prompt.
        return content.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except OSError as error:
        raise UsageError(f"the prompt file {file} cannot be read: {error.strerror}", "check its name") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the prompt file {file} is not UTF-8 text", "save it as UTF-8") from error


def _read_stdin() -> str:
    try:
        return read_stdin("give the prompt as an argument", MAX_TEXT_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError("the text on standard input is not UTF-8", "convert it, for example with iconv") from error


def _parse_object(line: str, place: str) -> Prompt:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(
            f"{place}this is not JSON: {reason}", 'write it like {"prompt": "a cat", "seed": 7}'
        ) from error
    return _prompt_of(content, place)


def _prompt_of(content: Any, place: str) -> Prompt:
    """Read an object with a prompt, and its input pictures and settings."""
    from config.validation import near_miss  # defines the settings' models, which other prompts do not need

    if not isinstance(content, dict) or not isinstance(content.get("prompt"), str):
        meant = near_miss("prompt", content) if isinstance(content, dict) and "prompt" not in content else None
        hint = f'write "prompt" instead of "{meant}"' if meant else 'write it like {"prompt": "a cat", "seed": 7}'
        raise UsageError(f'{place}this is not a JSON object with a "prompt"', hint)
    text = content.pop("prompt")
    images = content.pop("image", [])
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise UsageError(
            f'{place}"image" must be a file name or a list of file names', 'write it like "image": ["a.png"]'
        )
    if CLIPBOARD in images:  # the file may be a stranger's
        raise UsageError(f"{place}a prompt file cannot read the clipboard", f"a file with this name is ./{CLIPBOARD}")
    for key in content:
        if key not in IMAGE and near_miss(key, ("prompt", "image"), cutoff=0.8):
            raise UsageError(f"{place}unknown key {key}", f"did you mean {near_miss(key, ('prompt', 'image'))}?")
    return Prompt(text, tuple(images), _checked_settings(content, place), place)


def _checked_settings(content: dict[str, Any], place: str) -> dict[str, Any]:
    from config.validation import check_values, json_notation

    return check_values(content, json_notation(lambda name: place), allowed=IMAGE)
