"""The help of a command, as text: usage, examples, and its options with the defaults of the model in use.

It is written without Rich, whose import would take as long as the rest of `--help`.
"""

import inspect
import os
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from config.declarations import DECLARATIONS, SERVE
from config.defaults_in_use import Defaults, defaults_in_use
from model import DEMO_CHECKPOINT, DEMO_MODEL

MAX_WIDTH = 110
"""Columns of the widest help. Longer lines are hard to read."""
INDENT = 2
GENERAL = "General"
"""Heading of the options that every command has."""
HELP_FLAG = "--help"


def help_text(context: typer.Context, is_shown: Callable[[str], bool] = lambda name: True) -> str:
    """Return the help of a context's command.

    Args:
        is_shown: returns whether to show the option with this parameter name.
    """
    command: Any = context.command
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
    lines = _wrapped(f"Usage: {context.command_path} {_usage(command, context)}", width, 7)
    lines += ["", *_description(command.help or "", width)]
    if commands := getattr(command, "commands", None):
        rows = [(name, (each.help or "").splitlines()[0]) for name, each in commands.items()]
        lines += ["", _heading("Commands"), *_rows(rows, width)]
    defaults = defaults_in_use(_checkpoint, _typed_model(context))
    notes = _Notes(defaults, getattr(command.callback, "own_defaults", {}))
    for heading, parameters in _panels(command, context, is_shown).items():
        rows = [(_names(each), _meaning(each, notes)) for each in parameters]
        lines += ["", _heading(heading), *_rows(rows, width)]
    if notes.used:
        about = f"the model in use ({defaults.model or DEMO_MODEL})"
        lines += ["", *_wrapped(f"Defaults are in [brackets]. They depend on {about} and on settings files.", width)]
    return "\n".join(lines)


def _usage(command: Any, context: typer.Context) -> str:
    """Return what follows the command's name: `[OPTIONS] [PROMPT]`."""
    arguments = [each for each in command.get_params(context) if each.param_type_name == "argument"]
    words = [_placeholder(each) if each.required else f"[{_placeholder(each)}]" for each in arguments]
    return " ".join(["[OPTIONS]", *words, *(["COMMAND"] if hasattr(command, "commands") else [])])


class _Notes:
    """The defaults behind the options' meanings.

    Attributes:
        used: whether a default of a model's or a settings file's was shown.
    """

    def __init__(self, defaults: Defaults, own: Mapping[str, Any]) -> None:
        """
        Args:
            own: the command's own defaults of settings.
        """
        self._values: dict[str, Any] = {name: declared.default for name, declared in SERVE.items()}
        self._values |= defaults.values
        if self._values["size"] == "auto":
            self._values["size"] = f"auto: {defaults.size}"
        self._values |= own
        self.used = False

    def of(self, parameter: Any) -> str:
        """Return the default of an option in brackets; empty if it has none."""
        value = self._values.get(parameter.name) if parameter.name in self._values else _own_default(parameter)
        if value in (None, "") or isinstance(value, bool) or parameter.help.endswith("]"):
            return ""
        self.used |= parameter.name in DECLARATIONS
        text = " ".join(f"{part:g}" for part in value) if isinstance(value, list | tuple) else str(value)
        return f" [{text}]"


def _own_default(parameter: Any) -> Any:
    """Return the default of an option that a command declares itself and that it shows; None without one."""
    return parameter.default if getattr(parameter, "show_default", False) and not callable(parameter.default) else None


def _description(text: str, width: int) -> Iterator[str]:
    """Yield the lines of a docstring. The examples keep their lines, and the other paragraphs are wrapped."""
    for number, paragraph in enumerate(inspect.cleandoc(text).split("\n\n")):
        if number:
            yield ""
        first, *rest = paragraph.splitlines()
        if first == "Examples":
            yield _heading(first)
            for line in rest:
                yield from _wrapped(line, width, 6)
        else:
            yield from _wrapped(" ".join((first, *rest)), width)


def _panels(command: Any, context: typer.Context, is_shown: Callable[[str], bool]) -> dict[str, list[Any]]:
    """Return the shown parameters by heading, in the order in which the command declares them."""
    panels: dict[str, list[Any]] = {}
    own_heading = GENERAL if hasattr(command, "commands") else "Input"
    for parameter in command.get_params(context):
        if not getattr(parameter, "hidden", False) and is_shown(parameter.name):
            heading = getattr(parameter, "rich_help_panel", None) or own_heading
            panels.setdefault(GENERAL if HELP_FLAG in parameter.opts else heading, []).append(parameter)
    general = panels.pop(GENERAL)
    return {**panels, GENERAL: sorted(general, key=lambda parameter: HELP_FLAG not in parameter.opts)}


def _names(parameter: Any) -> str:
    """Return the names of an option, short ones first, and its placeholder; for an argument the placeholder alone."""
    if parameter.param_type_name == "argument":
        return _placeholder(parameter)
    names = ", ".join(sorted(parameter.opts, key=lambda name: name.startswith("--")))
    return names if parameter.is_flag else f"{names} {_placeholder(parameter)}"


def _placeholder(parameter: Any) -> str:
    return (parameter.metavar or str(parameter.name).upper()).strip()


def _meaning(parameter: Any, notes: _Notes) -> str:
    if HELP_FLAG in parameter.opts:
        return "Show this text."
    return f"{(parameter.help or '').strip()}{notes.of(parameter)}"


def _rows(rows: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    """Yield rows of two columns. A name that is too long for its column has a line of its own."""
    column = min(max(len(name) for name, _ in rows), max(16, width // 3))
    for name, meaning in rows:
        indent = " " * (INDENT + column + 2)
        start = f"{' ' * INDENT}{name.ljust(column)}  "
        if len(name) > column:
            yield from _wrapped(f"{' ' * INDENT}{name}", width, INDENT + 4)
            start = indent
        yield from textwrap.wrap(
            meaning, width, initial_indent=start, subsequent_indent=indent, break_on_hyphens=False
        ) or [start.rstrip()]


def _wrapped(text: str, width: int, indent: int = 0) -> list[str]:
    start = " " * (len(text) - len(text.lstrip()))
    return textwrap.wrap(
        text.strip(),
        width,
        initial_indent=start,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
    )


def _heading(text: str) -> str:
    """Return a heading, bold on a screen: `typer.echo` removes the codes elsewhere."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") in ("dumb", "unknown")
    return text if plain else typer.style(text, bold=True)


def _typed_model(context: typer.Context) -> str | None:
    """Return the model that the command line names before or behind `--help`."""
    words: Sequence[str] = context.find_root().obj or ()
    for index, word in enumerate(words):
        if word.startswith("--model="):
            return word.removeprefix("--model=")
        if word == "--model" and index + 1 < len(words):
            return words[index + 1]
    return None


def _checkpoint(model: str | None) -> Path | None:
    """Return the folder of the demo or of a model that is a folder. The Hub cache is not searched."""
    if model is None or model == DEMO_MODEL:
        return DEMO_CHECKPOINT
    try:
        return Path(model).expanduser()
    except RuntimeError:  # ~nobody
        return None
