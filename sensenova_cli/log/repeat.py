"""The command that repeats a logged request."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from config.declarations import DECLARATIONS
from config.errors import SenseNovaError
from config.settings import (
    RECORDED_LOAD_SETTINGS,
    ImageSettings,
    LoadSettings,
    SettingsGroup,
    TextSettings,
)
from config.sources import read_layers
from config.task_defaults import EDIT_ONLY
from model import DEMO_MODEL, read_card
from sensenova_cli.errors import LogError, UsageError
from sensenova_cli.inputs.expansion import escaped_prompt
from sensenova_cli.inputs.options import IMAGE_OPTIONS, INTERLEAVE_OPTIONS, TEXT_OPTIONS
from sensenova_cli.log.entries import LogEntry
from sensenova_cli.system.streams import CLIPBOARD, STDIN

UPDATE = "update sensenova; sensenova log show NUMBER prints the request"
_OPTIONS: Mapping[str, Sequence[str]] = {
    "generate": [name for name in IMAGE_OPTIONS if name not in EDIT_ONLY],
    "edit": IMAGE_OPTIONS,
    "describe": TEXT_OPTIONS,
    "chat": TEXT_OPTIONS,
    "interleave": INTERLEAVE_OPTIONS,
}
"""Task → the settings that its command has as options."""


def repeat_words(entry: LogEntry) -> list[str]:
    """Return the words of the command that makes the same request again, from its name on.

    Settings become options where the settings files, the environment and the model's recommendations have other values
    now. Seed and size of a picture are always there.

    Raises:
        UsageError: the request continued a conversation, or it read a picture from standard input or the clipboard.
        LogError: another version has written the entry, with a command or a setting that this version lacks.
        SettingsError: the settings files have a mistake.
    """
    if entry.task not in _OPTIONS:
        raise LogError(f"entry {entry.number} is of a command that this version does not have", UPDATE)
    if entry.earlier:
        name = entry.session or "NAME"
        raise UsageError(
            f"entry {entry.number} continues a conversation, which one command cannot repeat",
            f"continue the session: sensenova repl --session {name}" if entry.session else "ask again in a session",
        )
    if STDIN in entry.inputs or CLIPBOARD in entry.inputs:
        place = "standard input" if STDIN in entry.inputs else "the clipboard"
        raise UsageError(
            f"entry {entry.number} read a picture from {place}, which the log does not keep",
            f'name its file: sensenova {entry.task} FILE "…"',
        )
    load, known = _load_options(entry)
    # The logged prompt is the one that was drawn.
    own = ["--no-enhance"] if entry.task in ("generate", "edit") and read_layers().values.get("enhance") else []
    options = [*load, *_request_options(entry, known), *own]
    return [entry.task, *_text_words(entry), *options]


def _text_words(entry: LogEntry) -> Iterator[str]:
    """Yield the prompt, the pictures and the system message."""
    prompt = entry.prompt
    if entry.task in ("generate", "edit"):  # in a prompt of these, single braces have a meaning
        prompt = escaped_prompt(prompt)
    if entry.task == "describe":
        yield from entry.inputs
    else:
        for path in entry.inputs:
            yield from ("--image", path)
    if prompt.startswith("-"):
        yield f"--prompt={prompt}"
    elif entry.inputs:
        yield from ("-p", prompt)
    else:
        yield prompt
    if entry.system is not None and (entry.task == "interleave" or (entry.task == "chat" and entry.system)):
        yield f"--system={entry.system}"


def _load_options(entry: LogEntry) -> tuple[list[str], dict[str, Any] | None]:
    """Return the options that choose the model, and the settings which the command would have with them; None if the
    model's recommendations are not known without asking a server or the Hub."""
    current = read_layers().load
    if "server" in entry.loaded:
        chosen = {"server": entry.loaded["server"]} if current.server != entry.loaded["server"] else {}
        return _options(chosen), None
    wanted = _values(LoadSettings, entry.loaded)
    names = [name for name in RECORDED_LOAD_SETTINGS if wanted[name] != getattr(current, name)]
    missing = {"model": DEMO_MODEL, "weights": "off", "lora": "off"}
    chosen = {name: wanted[name] if wanted[name] is not None else missing[name] for name in names}
    if current.is_remote:
        chosen["server"] = "off"
    options = _options(chosen)
    try:
        layers = read_layers(chosen)
        recommended = read_card(layers.load).recommended
        if entry.task == "interleave":
            recommended = recommended.for_interleaving()
        return options, layers.resolve(recommended).settings.model_dump()
    except SenseNovaError:  # the command reports it when it runs
        return options, None


def _request_options(entry: LogEntry, known: Mapping[str, Any] | None) -> list[str]:
    """Return the options of the settings that differ from the known ones; without known ones, of all settings."""
    groups = (TextSettings,) if entry.task in ("describe", "chat") else (ImageSettings, TextSettings)
    wanted = {name: value for group in groups for name, value in _values(group, entry.settings).items()}
    always = ("size", "seed") if entry.task not in ("describe", "chat") else ()
    chosen = {
        name: value
        for name, value in wanted.items()
        if name in _OPTIONS[entry.task] and (known is None or known[name] != value or name in always)
    }
    return _options(chosen)


def _values(group: type[SettingsGroup], changed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked values of a group, of which `changed` are not defaults. Names that this version lacks are
    left out.

    Raises:
        LogError: this version does not know a value.
    """
    known = {name: value for name, value in changed.items() if name in group.model_fields}
    try:
        return group.model_validate(known).model_dump()
    except ValueError:
        raise LogError("the entry has a setting whose value this version does not know", UPDATE) from None


def _options(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as options. A setting without a value has no option."""
    words: list[str] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if DECLARATIONS[name].kind == "bool":
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list | tuple):
            words += [f"--{flag}", *map(str, value)]
        elif value is not None:
            words += [f"--{flag}={value}"] if str(value).startswith("-") else [f"--{flag}", str(value)]
    return words
