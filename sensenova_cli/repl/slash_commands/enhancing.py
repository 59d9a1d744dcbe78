"""The slash command that lets a model rewrite prompts before they are drawn."""

from dataclasses import replace

from sensenova_cli.enhance.cache import forget_replies
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.replay import PictureKind
from sensenova_cli.repl.lines import Line
from sensenova_cli.repl.slash_commands.completion_sources import fixed_words
from sensenova_cli.repl.slash_commands.line_options import parse_line_options
from sensenova_cli.repl.slash_commands.registry import slash_command
from sensenova_cli.repl.slash_commands.session_settings import set_session_settings
from sensenova_cli.repl.slash_commands.turns import GENERATE_OPTIONS
from sensenova_cli.repl.workspace import Workspace
from sensenova_cli.sessions.summary import counted


@slash_command(
    "enhance",
    "on|off|forget|PROMPT",
    more=(
        "/enhance on",
        "/enhance a cat reading a newspaper",
        "/enhance forget removes all earlier replies",
        "the setting enhance_with names another model for it",
    ),
    options=GENERATE_OPTIONS,
    first=(fixed_words({"on": "", "off": "", "forget": "remove all earlier replies"}),),
)
def enhance(workspace: Workspace, line: Line) -> None:
    """Rewrite each prompt in more detail, or only this one; you can change the result before it is drawn."""
    word = line.text.strip().lower()
    if word in ("", "on", "off", "forget"):
        if line.flags:
            raise UsageError("/enhance on, off and forget take no options", "for example: /enhance a cat --seed 7")
        if word == "forget":
            workspace.say(f"removed {counted(forget_replies(), 'rewritten prompt')}")
        else:
            set_session_settings(workspace, {"enhance": word != "off"})
        return
    state = workspace.session.state
    kind: PictureKind = "edit" if state.selected or state.staged else "generate"
    options = parse_line_options(kind, line.flags)
    enhanced = replace(options, settings={**options.settings, "enhance": True})
    workspace.draw(kind, line.text, workspace.turn_inputs() if kind == "edit" else (), enhanced)
