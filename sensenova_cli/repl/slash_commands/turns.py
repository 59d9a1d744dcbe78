"""Slash commands that run a turn: /generate, /edit, /describe, /chat, /interleave, /continue, /think, /again; and /undo
and /redo.

Plain prompts run the first four.
"""

from dataclasses import replace

from config.task_defaults import EDIT_ONLY
from sensenova_cli.commands.describe import ONE_PICTURE, SEVERAL_PICTURES
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.options import IMAGE_OPTIONS, INTERLEAVE_OPTIONS, PROMPT_OPTIONS, TEXT_OPTIONS
from sensenova_cli.inputs.replay import PictureKind
from sensenova_cli.repl.lines import Line
from sensenova_cli.repl.slash_commands.completion_sources import fixed_words
from sensenova_cli.repl.slash_commands.line_options import parse_line_options
from sensenova_cli.repl.slash_commands.registry import slash_command
from sensenova_cli.repl.slash_commands.session_settings import set_session_settings
from sensenova_cli.repl.workspace import Workspace
from sensenova_cli.sessions.entries import AnswerTurn, PictureTurn, Redo, Stage, Undo
from sensenova_cli.sessions.summary import counted

_OUTPUT = (
    *("output", "format", "quality", "force", "profile"),
    *("print_think", "hide_think", "preview", "enable_cache_dit_summary"),
)
_PICTURE = (*PROMPT_OPTIONS, *_OUTPUT)
GENERATE_OPTIONS = (*(name for name in IMAGE_OPTIONS if name not in EDIT_ONLY), *_PICTURE)
EDIT_OPTIONS = (*IMAGE_OPTIONS, *_PICTURE)
ANSWER_OPTIONS = (*TEXT_OPTIONS, "profile")
STORY_OPTIONS = (*INTERLEAVE_OPTIONS, *_OUTPUT)


@slash_command(
    "generate",
    "PROMPT [OPTIONS]",
    more=("/generate a cat at dusk --aspect 16:9 --seed 7 -n 4", "options: see `sensenova generate --help`"),
    options=GENERATE_OPTIONS,
)
def generate(workspace: Workspace, line: Line) -> None:
    """Make a new picture, even if one is selected."""
    if not line.text:
        raise UsageError("there is no prompt", "say what to draw: /generate a cat at dusk")
    workspace.draw("generate", line.text, (), parse_line_options("generate", line.flags))


@slash_command(
    "edit",
    "PROMPT [OPTIONS]",
    more=("/edit make it an oil painting --cfg-scale 5", "options: see `sensenova edit --help`"),
    options=EDIT_OPTIONS,
)
def edit(workspace: Workspace, line: Line) -> None:
    """Change the selected picture, or the staged ones."""
    imported = workspace.import_pictures(line.files)
    if not line.text:
        raise UsageError("there is no prompt", "say what to change: /edit make it an oil painting")
    workspace.draw("edit", line.text, workspace.turn_inputs(imported), parse_line_options("edit", line.flags))


@slash_command(
    "describe",
    "[QUESTION] [OPTIONS]",
    more=(
        "/describe which animal is this?",
        "? which animal is this?",
        "options: see `sensenova describe --help`",
    ),
    options=ANSWER_OPTIONS,
)
def describe(workspace: Workspace, line: Line) -> None:
    """Ask about the selected picture, as a line that starts with ?."""
    images = workspace.turn_inputs(workspace.import_pictures(line.files), asking=True)
    question = line.text or (ONE_PICTURE if len(images) == 1 else SEVERAL_PICTURES)
    continues = images == workspace.session.state.now.shown
    options = parse_line_options("describe", line.flags)
    workspace.turns.answer("describe", question, () if continues else images, options, continues=continues)
    if workspace.session.state.staged:
        # The question was about the staged pictures, even if the conversation had shown them before.
        workspace.session.append(Stage(staged=()))


@slash_command(
    "chat",
    "MESSAGE [OPTIONS]",
    more=("/chat what can you do?", "options: see `sensenova chat --help`"),
    options=ANSWER_OPTIONS,
)
def chat(workspace: Workspace, line: Line) -> None:
    """Talk; the model sees the pictures of the conversation."""
    imported = workspace.import_pictures(line.files)
    if not line.text:
        raise UsageError("there is no message", "for example: /chat what can you do?")
    images = (*workspace.session.state.staged, *imported)
    continues = bool(workspace.session.state.now.conversation)
    options = parse_line_options("chat", line.flags)
    workspace.turns.answer("chat", line.text, images, options, continues=continues)


@slash_command(
    "interleave",
    "PROMPT [OPTIONS]",
    more=(
        "/interleave a picture book about a red kite --max-images 4 --no-think",
        "staged pictures are shown with the prompt",
        "options: see `sensenova interleave --help`",
    ),
    options=STORY_OPTIONS,
)
def interleave(workspace: Workspace, line: Line) -> None:
    """Answer with text and pictures, such as a picture book."""
    if not line.text:
        raise UsageError("there is no prompt", "for example: /interleave a picture book about a red kite")
    staged = workspace.session.state.staged
    workspace.interleave(line.text, staged, parse_line_options("interleave", line.flags), follows=())


@slash_command(
    "continue",
    "PROMPT [OPTIONS]",
    more=(
        "/continue and what does the kite do in winter?",
        "experimental: the model was not trained with earlier turns in this task",
        "options: see `sensenova interleave --help`",
    ),
    options=STORY_OPTIONS,
)
def continue_interleaved(workspace: Workspace, line: Line) -> None:
    """Continue the conversation with text and pictures (experimental)."""
    state = workspace.session.state
    if not state.now.conversation:
        raise UsageError("there is nothing to continue", "begin: /interleave a picture book about a red kite")
    if not line.text:
        raise UsageError("there is no prompt", "say how it goes on: /continue and what happens in winter?")
    options = parse_line_options("continue", line.flags)
    workspace.interleave(line.text, state.staged, options, follows=[turn.turn for turn in state.now.conversation])


@slash_command(
    "think",
    "on|off|PROMPT",
    more=("/think on", "/think a cat reading a newspaper"),
    options=GENERATE_OPTIONS,
    first=(fixed_words({"on": "", "off": ""}),),
)
def think(workspace: Workspace, line: Line) -> None:
    """Let the model think before each picture, or only before this one."""
    word = line.text.strip().lower()
    if word in ("", "on", "off"):
        if line.flags:
            raise UsageError("/think on and off take no options", "for example: /think a cat --seed 7")
        set_session_settings(workspace, {"think": word != "off"})
        return
    state = workspace.session.state
    kind: PictureKind = "edit" if state.selected or state.staged else "generate"
    options = parse_line_options(kind, line.flags)
    with_think = replace(options, settings={**options.settings, "think": True})
    workspace.draw(kind, line.text, workspace.turn_inputs() if kind == "edit" else (), with_think)


@slash_command(
    "again",
    "[OPTIONS]",
    more=("/again -n 4", "also repeats /interleave and /continue, after the same turns as before"),
    options=GENERATE_OPTIONS,
)
def again(workspace: Workspace, line: Line) -> None:
    """Repeat the last picture turn with the next seed."""
    if line.text:
        raise UsageError("/again takes only options", "for example: /again --seed 7")
    turns = [turn for turn in workspace.session.state.turns if not isinstance(turn, AnswerTurn)]
    if not turns:
        raise UsageError("there are no pictures yet", "type what to draw: a cat at dusk")
    last = turns[-1]
    typed = parse_line_options(last.kind, line.flags)
    # The model decides how many pictures an answer has, and each one takes the next seed.
    used = int(str(last.settings["num_images"])) if isinstance(last, PictureTurn) else max(1, len(last.pictures))
    next_seed = int(str(last.settings["seed"])) + used
    options = replace(typed, settings={**last.typed, "seed": next_seed, **typed.settings})
    if isinstance(last, PictureTurn):
        workspace.draw(last.kind, last.prompt, last.inputs, options, repeats=last)
    else:
        workspace.interleave(last.prompt, last.inputs, options, follows=last.follows)


@slash_command("undo", "[N]", more=("/undo 2",), first=(fixed_words({"2": "two turns"}),))
def undo(workspace: Workspace, line: Line) -> None:
    """Go back by one turn, or by N; no picture is deleted."""
    _move(workspace, Undo, _number_of_turns(line), len(workspace.session.state.past), "undo")


@slash_command("redo", "[N]", more=("/redo 2",), first=(fixed_words({"2": "two turns"}),))
def redo(workspace: Workspace, line: Line) -> None:
    """Reverse the last undo, or the last N."""
    _move(workspace, Redo, _number_of_turns(line), len(workspace.session.state.future), "redo")


def _number_of_turns(line: Line) -> int:
    """Return the number that a line names, 1 without a number."""
    word = line.text.strip() or "1"
    if not word.isdecimal() or int(word) < 1:
        raise UsageError(f"{word!r} is not a number of turns", f"for example: /{line.command} 2")
    return int(word)


def _move(workspace: Workspace, step: type[Undo] | type[Redo], count: int, possible: int, verb: str) -> None:
    """Go back or forward by several steps, and show the picture that is selected then, if it is another one.

    Args:
        possible: number of steps until the first or the last moment of the session.
        verb: `undo` or `redo`, for messages.
    """
    if possible < count:
        rest = f"only {counted(possible, 'turn')}" if possible else "nothing"
        raise UsageError(f"there is {rest} to {verb}")
    before = workspace.session.state
    for _ in range(count):
        workspace.session.append(step())
    after = workspace.session.state
    if after.now.conversation != before.now.conversation:
        questions = len(after.now.conversation)
        content = f"has {counted(questions, 'question')}" if questions else "is empty"
        workspace.say(f"the conversation {content} now")
    if after.selected != before.selected:
        workspace.show_selected()
    else:
        workspace.say_selected()
