"""Flags at the end of a line: the same ones, with the same checks, as those of the shell commands."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import typer

from sensenova_cli.arguments import spread_values, wants_help
from sensenova_cli.errors import UsageError
from sensenova_cli.flags import Flags, collect_flags
from sensenova_cli.options import EDIT_ONLY, IMAGE_OPTIONS, TEXT_OPTIONS

_OF_PICTURES = ("output", "force", "profile", "print_think", "hide_think", "preview")

LINE_OPTIONS: Mapping[str, Sequence[str]] = {
    "generate": (*(name for name in IMAGE_OPTIONS if name not in EDIT_ONLY), *_OF_PICTURES),
    "edit": (*IMAGE_OPTIONS, *_OF_PICTURES),
    "describe": (*TEXT_OPTIONS, "profile"),
    "chat": (*TEXT_OPTIONS, "profile"),
}
"""Options that a line may end with, by what it asks for."""

NO_PROFILE = "none"
"""What a session has for its profile where the one it was started with is not to be used."""

INSTEAD = {"model": "/model NAME", "device": "sensenova repl --device", "dtype": "sensenova repl --dtype"}
"""What to type where an option cannot change from one turn to the next."""


def line_flags(task: str, words: Sequence[str]) -> Flags:
    """Parse the flags of a line as the shell command of that name does.

    Raises:
        UsageError: it has no such flag, a value is missing, or the flag is not one of a line's.
    """
    if not words:
        return Flags({})
    if wants_help(words):
        raise UsageError("a line takes no --help", f"see: /help {task}")
    from sensenova_cli.app import app

    command = typer.main.get_command(app).commands[task]  # type: ignore[attr-defined]
    try:
        context = command.make_context(task, spread_values([task, *words])[1:])
    except typer.TyperException as error:
        what = error.format_message().strip().rstrip(".")
        raise UsageError(what[0].lower() + what[1:], f"see: /help {task}") from None
    if rest := context.params.get("prompt") or context.params.get("message") or context.params.get("images"):
        rest = rest if isinstance(rest, str) else " ".join(rest)
        raise UsageError(f"{rest!r} stands behind a flag", "flags go last on a line")
    for name, value in context.params.items():
        setting = name.removeprefix("no_")
        if value not in (None, False, "", [], ()) and setting not in LINE_OPTIONS[task]:
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} cannot be given with a line", f"use: {INSTEAD.get(name, '/help ' + task)}")
    return collect_flags(context.params)


def merged(start: Flags, session: Mapping[str, Any], profile: str | None, line: Flags) -> Flags:
    """The flags of one turn: those the program was started with, what the session has set, and the line's own."""
    settings = {**start.settings, **session, **line.settings}
    of_session = None if profile == NO_PROFILE else profile or start.profile
    if not (line.width or line.height or "size" in session or "size" in line.settings):
        line = replace(line, width=start.width, height=start.height)
    return replace(line, settings=settings, profile=line.profile or of_session)
