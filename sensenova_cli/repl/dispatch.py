"""The choice of the command that runs a line."""

from typing import Literal

from config.validation import near_miss
from sensenova_cli.errors import UsageError
from sensenova_cli.repl.lines import Line, looks_like_path
from sensenova_cli.repl.slash_commands import COMMANDS, Command
from sensenova_cli.sessions.state import State

Mode = Literal["pictures", "chat"]
"""Effect of a plain prompt: to make and edit pictures, or to talk."""


def command_name(line: Line, mode: Mode, state: State) -> str:
    """Return the name of the command that runs a line.

    It is the line's slash command, which may not exist; `describe` for a question; else `edit`, `generate` or `chat`.
    """
    if line.kind == "command":
        return line.command
    if line.kind == "question":
        return "describe"
    if mode == "chat":
        return "chat"
    return "edit" if line.files or state.staged or state.selected else "generate"


def find_command(name: str) -> Command:
    """Return the command of this name.

    Raises:
        UsageError: there is no such command.
    """
    if command := COMMANDS.get(name):
        return command
    word = f"/{name}"
    if looks_like_path(word):
        raise UsageError(f"there is no picture file {word}", "check its name; /help lists the commands")
    meant = near_miss(name, COMMANDS)
    hint = f"did you mean /{meant}? " if meant else ""
    raise UsageError(f"there is no command {word}", f"{hint}/help lists the commands")
