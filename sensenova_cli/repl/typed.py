"""Flags at the end of a line: the same ones, with the same checks, as those of the shell commands."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Annotated, Any

import typer
import typer.core

from sensenova_cli.arguments import spread_values, wants_help
from sensenova_cli.errors import UsageError
from sensenova_cli.flags import Flags, collect_flags
from sensenova_cli.options import (
    COMMON_OPTIONS,
    EDIT_ONLY,
    ENGINE_OPTIONS,
    IMAGE_OPTIONS,
    OUTPUT_OPTIONS,
    TEXT_OPTIONS,
    with_options,
)

_OF_PICTURES = ("output", "force", "profile", "print_think", "hide_think", "preview", "enable_cache_dit_summary")

LINE_OPTIONS: Mapping[str, Sequence[str]] = {
    "generate": (*(name for name in IMAGE_OPTIONS if name not in EDIT_ONLY), *_OF_PICTURES),
    "edit": (*IMAGE_OPTIONS, *_OF_PICTURES),
    "describe": (*TEXT_OPTIONS, "profile"),
    "chat": (*TEXT_OPTIONS, "profile"),
}
"""Options that a line may end with, by what it asks for."""

NO_PROFILE = "none"
"""What a session has for its profile where the one it was started with is not to be used."""

INSTEAD = {
    "model": "use /model NAME",
    "device": "leave, and start again with --device",
    "dtype": "leave, and start again with --dtype",
    "lora": "use /lora FILE",
    "quantization": "leave, and start again with --quantization",
    "tensor_parallel_size": "leave, and start again with --tensor-parallel-size",
    "gpus": "leave, and start again with --gpus",
    "cfg_parallel_size": "leave, and start again with --cfg-parallel-size",
}
"""What to type where an option cannot change from one turn to the next."""


_SHELL_OPTIONS = frozenset(
    (*IMAGE_OPTIONS, *TEXT_OPTIONS, *ENGINE_OPTIONS, *OUTPUT_OPTIONS, *COMMON_OPTIONS, "prompt", "prompt_file", "from")
)
"""Options of the shell commands, which people may try."""


def line_flags(task: str, words: Sequence[str]) -> Flags:
    """Parse the flags of a line as the shell command of that name does.

    Raises:
        UsageError: it has no such flag, a value is missing, or the flag is not one of a line's.
    """
    if not words:
        return Flags({})
    if wants_help(words):
        raise UsageError("a line takes no --help", f"see: /help {task}")
    for word in words:
        flag = word.split("=")[0]
        name = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and name in _SHELL_OPTIONS and name not in LINE_OPTIONS[task]:
            raise UsageError(f"{flag} cannot be given with a line", INSTEAD.get(name, f"see: /help {task}"))
    command = _parser(task)
    try:
        context = command.make_context(task, spread_values([task, *words])[1:])
    except typer.TyperException as error:
        what = error.format_message().strip().rstrip(".")
        raise UsageError(what[0].lower() + what[1:], f"see: /help {task}") from None
    if rest := context.params.pop("rest"):
        raise UsageError(f"{' '.join(rest)!r} stands behind a flag", "flags go last on a line")
    return collect_flags(context.params)


@cache
def _parser(task: str) -> typer.core.TyperCommand:
    """A command that takes a line's flags, and words where none should be."""
    app = typer.Typer(add_completion=False)

    @app.command()
    @with_options(*LINE_OPTIONS[task])
    def line(flags: Flags, rest: Annotated[list[str] | None, typer.Argument()] = None) -> None:
        """Never called: the parser's values are all that is wanted."""

    command = typer.main.get_command(app)
    assert isinstance(command, typer.core.TyperCommand)
    return command


def merged(start: Flags, session: Mapping[str, Any], profile: str | None, line: Flags) -> Flags:
    """The flags of one turn: those the program was started with, what the session has set, and the line's own."""
    settings = {**start.settings, **session, **line.settings}
    of_session = None if profile == NO_PROFILE else profile or start.profile
    if not (line.width or line.height or "size" in session or "size" in line.settings):
        line = replace(line, width=start.width, height=start.height)
    return replace(line, settings=settings, profile=line.profile or of_session)
