"""The choice of the command that runs a line."""

from sensenova_cli.repl.lines import Line
from sensenova_cli.repl.workspace import Mode
from sensenova_cli.sessions.state import State


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
