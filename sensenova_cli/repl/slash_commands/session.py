"""Slash commands about the session itself, and what came before: /stats, /history, /log, /new, /rename."""

from collections.abc import Iterator
from textwrap import indent

from config.units import count_of, format_memory
from model import process_timings
from sensenova_cli.errors import UsageError
from sensenova_cli.log.store import Log
from sensenova_cli.render.log_list import log_lines
from sensenova_cli.render.progress import format_rate
from sensenova_cli.repl.lines import Line
from sensenova_cli.repl.slash_commands.registry import slash_command
from sensenova_cli.repl.workspace import Workspace
from sensenova_cli.sessions.entries import AnswerTurn, InterleaveTurn, SessionPicture
from sensenova_cli.sessions.summary import shorten

INDENT = "   "
SHOWN_PROMPT = 60
"""Longest prompt in the statistics, in characters."""
LOGGED = 10
"""Entries in a list of the log."""


@slash_command("stats")
def stats(workspace: Workspace, line: Line) -> None:
    """Show time, tokens and memory of the last turn that ran."""
    measurements = workspace.turns.measurements
    statistics = measurements.statistics
    if statistics is None:
        if measurements.has_begun:
            raise UsageError(
                "the last turn did not finish, so it has no measurements", "/again repeats a picture's turn"
            )
        raise UsageError("there are no measurements yet", "make a picture or ask a question first")
    reused = f"{measurements.reused_tokens} of {measurements.prefix_tokens}"
    read = computed = passes = ""
    if statistics.denoise_passes:
        passes = f", {count_of(statistics.denoise_passes, 'prediction')}"
    if statistics.text_bytes:
        read = f", {format_rate(statistics.text_bytes / statistics.text_seconds, 'B/s')} read"
    if statistics.text_passes:
        read += f", {statistics.text_passes} passes that load weights"
    if statistics.denoise_flops:
        computed = f", {format_rate(statistics.denoise_flops / statistics.denoise_seconds, 'FLOP/s')}"
        computed += f", attention by {statistics.attention}"
    turn = measurements.turn
    rows = [
        ("turn", f"{turn.task.kind}: {shorten(turn.prompt, SHOWN_PROMPT)}"),
        ("prefix", f"{statistics.prefix_tokens} tokens computed, {reused} reused"),
        ("text", f"{statistics.new_tokens} tokens in {statistics.text_seconds:.2f} s" + read),
        ("picture", f"{statistics.steps} steps{passes} in {statistics.denoise_seconds:.2f} s" + computed),
        ("total", f"{statistics.seconds:.2f} s"),
        ("start", ", ".join(f"{name} {seconds:.2f} s" for name, seconds in process_timings.phases().items())),
        ("memory", f"peak {format_memory(statistics.peak_memory)} on {statistics.device}"),
        ("session", str(workspace.session.folder or "nothing yet")),
    ]
    if not measurements.prefix_tokens:  # every prompt has tokens, so this server has reported nothing but the end
        rows = [
            rows[0],
            ("total", f"{statistics.seconds:.2f} s on {statistics.device}, which reports no more"),
            rows[-1],
        ]
    for name, value in rows:
        workspace.print_text(f"{name:8} {value}")


@slash_command("history")
def history(workspace: Workspace, line: Line) -> None:
    """List the turns so far."""
    for turn in workspace.session.state.turns:
        ending = {"done": "", "cancelled": " (cancelled)"}.get(turn.status, f" ({turn.status}: {turn.reason})")
        if not isinstance(turn, AnswerTurn):
            pictures = ", ".join(str(picture.number) for picture in turn.pictures)
            result = f" → {pictures}" if pictures else ""
            about = f" of {', '.join(map(str, turn.inputs))}" if turn.inputs else ""
            workspace.print_text(f"{turn.turn}. {turn.kind}{about}: {turn.prompt}{result}{ending}")
            if isinstance(turn, InterleaveTurn):
                for part in _shown_parts(turn):
                    workspace.print_text(indent(part, INDENT))
        else:
            workspace.print_text(f"{turn.turn}. {turn.kind}: {turn.prompt}{ending}")
            if turn.answer:
                workspace.print_text(indent(turn.answer, INDENT))
    workspace.say_selected()


def _shown_parts(turn: InterleaveTurn) -> Iterator[str]:
    """Yield the parts of an interleaved answer, without its thinking: texts, and the numbers of pictures."""
    for part in turn.parts:
        if isinstance(part, SessionPicture):
            yield f"[picture {part.number}]"
        elif not part.thinking and part.text.strip():
            yield part.text.strip()


@slash_command("log", "[WORDS]", more=("/log red owl",))
def log(workspace: Workspace, line: Line) -> None:
    """List the newest requests of all sessions and commands, or search them."""
    entries = Log(workspace.say).newest(LOGGED, line.text)
    for each in log_lines(entries, workspace.columns):
        workspace.print_text(each)
    if not entries:
        workspace.say("no request has these words" if line.text else "nothing is logged yet")


@slash_command("new", "[NAME]", more=("/new holiday",))
def new(workspace: Workspace, line: Line) -> None:
    """Start a new session; the model and the settings stay."""
    before = workspace.session.name
    workspace.start_session(line.text.strip())
    saved = f"; the session {before} is saved" if before and not workspace.session.is_temporary else ""
    workspace.say(f"this is a new session{saved}")


@slash_command("rename", "NAME", more=("/rename holiday",))
def rename(workspace: Workspace, line: Line) -> None:
    """Give this session another name."""
    if not line.text:
        raise UsageError("there is no name", "for example: /rename holiday")
    workspace.session.rename(line.text)
    workspace.say(f"this session is named {line.text}")
