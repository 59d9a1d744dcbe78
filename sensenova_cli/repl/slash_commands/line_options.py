"""Line options: the flags at the end of a line. They are the flags of the shell commands, with the same checks."""

from collections.abc import Sequence
from functools import cache
from typing import Annotated

import typer
import typer.core

from config.settings import LoadSettings
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.argv import spread_values, wants_help
from sensenova_cli.inputs.expansion import with_one_seed
from sensenova_cli.inputs.flags import Flags, collect_flags
from sensenova_cli.inputs.options import (
    COMMON_OPTIONS,
    ENGINE_OPTIONS,
    IMAGE_OPTIONS,
    OUTPUT_OPTIONS,
    TEXT_OPTIONS,
    with_options,
)
from sensenova_cli.repl.slash_commands.registry import COMMANDS
from sensenova_cli.repl.slash_commands.session_settings import hint_instead_of_set

SEVERAL_PICTURES = "give one number, or random; -n 4 makes four pictures, each with the next seed"

_SHELL_OPTIONS = frozenset(
    (*IMAGE_OPTIONS, *TEXT_OPTIONS, *ENGINE_OPTIONS, *OUTPUT_OPTIONS, *COMMON_OPTIONS, "prompt", "prompt_file", "from")
)
"""Options of the shell commands, which users may try at the end of a line."""


def parse_line_options(name: str, words: Sequence[str]) -> Flags:
    """Parse the flags at the end of a line as the shell does.

    Args:
        name: the slash command whose options the line may end with.
        words: the flags and their values.

    Raises:
        UsageError: a flag is unknown, its value is missing, or the command does not have this option.
    """
    if not words:
        return Flags({})
    help_hint = f"see: /help {name}"
    if wants_help(words):
        raise UsageError("a line takes no --help", help_hint)
    options = COMMANDS[name].options
    for word in words:
        flag = word.split("=")[0]
        option = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and option in _SHELL_OPTIONS and option not in options:
            hint = help_hint
            if option in LoadSettings.model_fields:
                hint = hint_instead_of_set(option) or f"use /set {option} VALUE"
            raise UsageError(f"{flag} cannot be given with a line", hint)
    try:
        context = _parser(options).make_context(name, spread_values([name, *words])[1:])
    except typer.TyperException as error:
        what = error.format_message().strip().rstrip(".")
        raise UsageError(what[0].lower() + what[1:], help_hint) from None
    if rest := context.params.pop("rest"):
        raise UsageError(f"{' '.join(rest)!r} follows an option", "options go at the end of a line")
    flags = collect_flags(context.params)
    return with_one_seed(flags, SEVERAL_PICTURES) if "num_images" in options else with_one_seed(flags)


@cache
def _parser(options: tuple[str, ...]) -> typer.core.TyperCommand:
    """Return a parser for these options. It also accepts other words; the caller then names them in its error."""
    app = typer.Typer(add_completion=False)

    @app.command()
    @with_options(*options)
    def line(flags: Flags, rest: Annotated[list[str] | None, typer.Argument()] = None) -> None:
        """Do nothing: this function declares the options, and is never called."""

    command = typer.main.get_command(app)
    assert isinstance(command, typer.core.TyperCommand)
    return command
