"""Slash commands about the prompt: /help, /clear, /quit."""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sensenova_cli.repl.lines import Line
from sensenova_cli.repl.slash_commands.completion_sources import command_names
from sensenova_cli.repl.slash_commands.registry import COMMANDS, Command, EndSession, find_command, slash_command
from sensenova_cli.repl.workspace import Mode, Workspace

INTRODUCTION: Mapping[Mode, tuple[str, ...]] = {
    "pictures": (
        "A prompt makes a picture, or changes the selected one. A line that starts with ? asks about it.",
        "A line may end with options: a cat at dusk --aspect 16:9 --seed 7",
        "A picture's file name stages the picture, and the next line uses it.",
    ),
    "chat": (
        "A message is answered. /generate and /edit make pictures; a line that starts with ? asks about one.",
        "A line may end with options: tell me a story --max-tokens 300",
        "A picture's file name stages the picture, and the next message shows it to the model.",
    ),
}
KEYS = (
    "Keys: Tab completes · Alt-Enter new line · Ctrl-R searches · Ctrl-X Ctrl-E opens an editor · Ctrl-C ends a turn · "
    "Ctrl-Z goes to the shell"
)


@slash_command("help", "[COMMAND]", aliases=("?", "h"), first=(command_names,))
def help_on(workspace: Workspace, line: Line) -> None:
    """Show this list, or more about one command."""
    name = line.text.strip().removeprefix("/")
    if not name:
        workspace.print(_help_on_all(workspace.mode))
    else:
        workspace.print(_help_on(find_command(name)))


def _help_on(command: Command) -> RenderableType:
    also = ", ".join(f"/{name}" for name in command.aliases)
    lines = [*command.more, *([f"also: {also}"] if also else [])]
    return Group(_usage(command), Text(command.help), *(Text(f"  {line}", style="dim") for line in lines))


def _help_on_all(mode: Mode) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for each in COMMANDS.values():
        table.add_row(_usage(each), each.help)
    return Group(*map(Text, INTRODUCTION[mode]), Text(), table, Text(), Text(KEYS, style="dim"))


def _usage(command: Command) -> Text:
    return Text(f"/{command.name} {command.usage}".rstrip(), style="bold")


@slash_command("clear")
def clear(workspace: Workspace, line: Line) -> None:
    """Clear the screen; the session stays."""
    workspace.clear_screen()


@slash_command("quit", aliases=("exit", "q"))
def quit_session(workspace: Workspace, line: Line) -> None:
    """Leave the session, as Ctrl-D does."""
    raise EndSession
