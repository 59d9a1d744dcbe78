"""Commands about the session: what was measured, the turns so far, help, and the end."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from config.validation import near_miss
from sensenova_cli.errors import UsageError
from sensenova_cli.render.progress import gigabytes, rate
from sensenova_cli.repl.lines import Line
from sensenova_cli.repl.slash_commands.completion_sources import command_names
from sensenova_cli.repl.slash_commands.registry import COMMANDS, Command, Leave, command
from sensenova_cli.repl.workspace import Workspace
from sensenova_cli.sessions.entries import PictureTurn

INTRODUCTION = (
    "Words make a picture; with a picture in hand they change it. ? in front asks about it.",
    "A line may end with flags: a cat at dusk --aspect 16:9 --seed 7",
    "A picture's file name, typed or pasted, is staged: it goes with the next line.",
)
KEYS = "Keys: Tab completes · Alt-Enter new line · Ctrl-R searches · Ctrl-X Ctrl-E opens an editor · Ctrl-C ends a turn"


@command("stats")
def stats(repl: Workspace, line: Line) -> None:
    """Time, tokens and memory of the last turn."""
    measured = repl.turns.measurements
    statistics = measured.statistics
    if statistics is None:
        raise UsageError("nothing was measured yet", "make a picture or ask something first")
    kept = f"{measured.reused_tokens} of {measured.prefix_tokens}"
    read = computed = ""
    if statistics.text_bytes:
        read = f", {rate(statistics.text_bytes / statistics.text_seconds, 'B/s')} read"
    if statistics.denoise_flops:
        computed = f", {rate(statistics.denoise_flops / statistics.denoise_seconds, 'FLOP/s')}"
        computed += f", attention by {statistics.attention}"
    rows = [
        ("prefix", f"{statistics.prefix_tokens} tokens read, {kept} kept from before"),
        ("text", f"{statistics.new_tokens} tokens in {statistics.text_seconds:.2f} s" + read),
        ("picture", f"{statistics.steps} steps in {statistics.denoise_seconds:.2f} s" + computed),
        ("in all", f"{statistics.seconds:.2f} s"),
        ("memory", f"peak {gigabytes(statistics.peak_memory)} on {statistics.device}"),
        ("session", str(repl.session.folder or "nothing yet")),
    ]
    for name, value in rows:
        repl.tell(f"{name:8} {value}")


@command("history")
def history(repl: Workspace, line: Line) -> None:
    """The turns so far."""
    for turn in repl.session.state.turns:
        ending = "" if turn.status == "done" else f" ({turn.status}: {turn.reason})"
        if isinstance(turn, PictureTurn):
            pictures = ", ".join(str(picture.number) for picture in turn.pictures)
            about = f" of {', '.join(map(str, turn.inputs))}" if turn.inputs else ""
            repl.tell(f"{turn.turn}. {turn.kind}{about}: {turn.prompt} → {pictures or 'nothing'}{ending}")
        else:
            repl.tell(f"{turn.turn}. {turn.kind}: {turn.prompt}{ending}")
            if turn.answer:
                repl.tell(f"   {turn.answer}")
    repl.say_selected()


@command("help", "[COMMAND]", first=(command_names,))
def help_on(repl: Workspace, line: Line) -> None:
    """This list, or more about one command."""
    name = line.text.strip().removeprefix("/")
    if not name:
        repl.print(_help_on_all())
    elif name in COMMANDS:
        repl.print(_help_on(COMMANDS[name]))
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


@command("quit")
def quit_session(repl: Workspace, line: Line) -> None:
    """Leave; Ctrl-D does, too."""
    raise Leave
