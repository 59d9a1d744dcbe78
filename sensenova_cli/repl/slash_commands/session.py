"""Slash commands about the session itself: /stats, /history, /help, /quit."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from config.validation import near_miss
from model import process_timings
from sensenova_cli.errors import UsageError
from sensenova_cli.render.progress import format_bytes, format_rate
from sensenova_cli.repl.lines import Line
from sensenova_cli.repl.slash_commands.completion_sources import command_names
from sensenova_cli.repl.slash_commands.registry import COMMANDS, Command, EndSession, slash_command
from sensenova_cli.repl.workspace import Workspace
from sensenova_cli.sessions.entries import AnswerTurn

INTRODUCTION = (
    "A prompt makes a picture, or changes the selected one. A line that starts with ? asks about it.",
    "A line may end with options: a cat at dusk --aspect 16:9 --seed 7",
    "A picture's file name stages the picture, and the next line uses it.",
)
KEYS = "Keys: Tab completes · Alt-Enter new line · Ctrl-R searches · Ctrl-X Ctrl-E opens an editor · Ctrl-C ends a turn"


@slash_command("stats")
def stats(workspace: Workspace, line: Line) -> None:
    """Show time, tokens and memory of the last turn."""
    measurements = workspace.turns.measurements
    statistics = measurements.statistics
    if statistics is None:
        raise UsageError("there are no measurements yet", "make a picture or ask a question first")
    reused = f"{measurements.reused_tokens} of {measurements.prefix_tokens}"
    read = computed = ""
    if statistics.text_bytes:
        read = f", {format_rate(statistics.text_bytes / statistics.text_seconds, 'B/s')} read"
    if statistics.denoise_flops:
        computed = f", {format_rate(statistics.denoise_flops / statistics.denoise_seconds, 'FLOP/s')}"
        computed += f", attention by {statistics.attention}"
    rows = [
        ("prefix", f"{statistics.prefix_tokens} tokens computed, {reused} reused"),
        ("text", f"{statistics.new_tokens} tokens in {statistics.text_seconds:.2f} s" + read),
        ("picture", f"{statistics.steps} steps in {statistics.denoise_seconds:.2f} s" + computed),
        ("total", f"{statistics.seconds:.2f} s"),
        ("start", ", ".join(f"{name} {seconds:.2f} s" for name, seconds in process_timings.phases().items())),
        ("memory", f"peak {format_bytes(statistics.peak_memory)} on {statistics.device}"),
        ("session", str(workspace.session.folder or "nothing yet")),
    ]
    if not measurements.prefix_tokens:  # every prompt has tokens, so this server has reported nothing but the end
        rows = [("total", f"{statistics.seconds:.2f} s on {statistics.device}, which reports no more"), rows[-1]]
    for name, value in rows:
        workspace.print_text(f"{name:8} {value}")


@slash_command("history")
def history(workspace: Workspace, line: Line) -> None:
    """List the turns so far."""
    for turn in workspace.session.state.turns:
        ending = "" if turn.status == "done" else f" ({turn.status}: {turn.reason})"
        if not isinstance(turn, AnswerTurn):
            pictures = ", ".join(str(picture.number) for picture in turn.pictures)
            about = f" of {', '.join(map(str, turn.inputs))}" if turn.inputs else ""
            workspace.print_text(f"{turn.turn}. {turn.kind}{about}: {turn.prompt} → {pictures or 'nothing'}{ending}")
        else:
            workspace.print_text(f"{turn.turn}. {turn.kind}: {turn.prompt}{ending}")
            if turn.answer:
                workspace.print_text(f"   {turn.answer}")
    workspace.say_selected()


@slash_command("help", "[COMMAND]", first=(command_names,))
def help_on(workspace: Workspace, line: Line) -> None:
    """Show this list, or more about one command."""
    name = line.text.strip().removeprefix("/")
    if not name:
        workspace.print(_help_on_all())
    elif name in COMMANDS:
        workspace.print(_help_on(COMMANDS[name]))
    else:
        meant = near_miss(name, COMMANDS)
        raise UsageError(f"there is no command /{name}", f"did you mean /{meant}?" if meant else "see: /help")


def _help_on(command: Command) -> RenderableType:
    return Group(_usage(command), Text(command.help), *(Text(f"  {line}", style="dim") for line in command.more))


def _help_on_all() -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for each in COMMANDS.values():
        table.add_row(_usage(each), each.help)
    return Group(*map(Text, INTRODUCTION), Text(), table, Text(), Text(KEYS, style="dim"))


def _usage(command: Command) -> Text:
    return Text(f"/{command.name} {command.usage}".rstrip(), style="bold")


@slash_command("quit")
def quit_session(workspace: Workspace, line: Line) -> None:
    """Leave the session, as Ctrl-D does."""
    raise EndSession
