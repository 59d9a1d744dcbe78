"""Commands that make a turn: a picture or an answer. Plain words and questions run them, too."""

from dataclasses import replace

from sensenova_cli.commands.describe import ONE_PICTURE, SEVERAL_PICTURES
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.options import EDIT_ONLY, IMAGE_OPTIONS, TEXT_OPTIONS
from sensenova_cli.inputs.replay import PictureKind
from sensenova_cli.repl.lines import Line
from sensenova_cli.repl.slash_commands.completion_sources import words
from sensenova_cli.repl.slash_commands.line_options import parse_line_options
from sensenova_cli.repl.slash_commands.registry import command
from sensenova_cli.repl.slash_commands.session_settings import set_session_settings
from sensenova_cli.repl.workspace import Workspace
from sensenova_cli.sessions.entries import PictureTurn, Stage

_OUTPUT = ("output", "force", "profile", "print_think", "hide_think", "preview", "enable_cache_dit_summary")
GENERATE_OPTIONS = (*(name for name in IMAGE_OPTIONS if name not in EDIT_ONLY), *_OUTPUT)
EDIT_OPTIONS = (*IMAGE_OPTIONS, *_OUTPUT)
ANSWER_OPTIONS = (*TEXT_OPTIONS, "profile")


@command(
    "generate",
    "WORDS [FLAGS]",
    more=("/generate a cat at dusk --aspect 16:9 --seed 7 -n 4", "flags: those of `sensenova generate --help`"),
    options=GENERATE_OPTIONS,
)
def generate(repl: Workspace, line: Line) -> None:
    """Make a new picture, whatever is in hand."""
    if not line.text:
        raise UsageError("there is nothing to draw", "say what: a cat at dusk")
    repl.draw("generate", line.text, (), parse_line_options("generate", line.flags))


@command(
    "edit",
    "WORDS [FLAGS]",
    more=("/edit make it an oil painting --cfg-scale 5", "flags: those of `sensenova edit --help`"),
    options=EDIT_OPTIONS,
)
def edit(repl: Workspace, line: Line) -> None:
    """Change the picture in hand, or the staged ones."""
    brought = repl.bring(line.files)
    if not line.text:
        raise UsageError("there is nothing to change", "say what: make it an oil painting")
    repl.draw("edit", line.text, repl.turn_inputs(brought), parse_line_options("edit", line.flags))


@command(
    "describe",
    "[QUESTION] [FLAGS]",
    more=(
        "/describe which animal is this?",
        "? which animal is this?",
        "flags: those of `sensenova describe --help`",
    ),
    options=ANSWER_OPTIONS,
)
def describe(repl: Workspace, line: Line) -> None:
    """Ask about the picture in hand, as ? in front of a line does."""
    about = repl.turn_inputs(repl.bring(line.files), asking=True)
    question = line.text or (ONE_PICTURE if len(about) == 1 else SEVERAL_PICTURES)
    continues = about == repl.session.state.now.shown
    flags = parse_line_options("describe", line.flags)
    repl.turns.answer("describe", question, () if continues else about, flags, continues=continues)
    if repl.session.state.staged:
        repl.session.append(Stage(staged=()))  # the question was about them, even where it did not show them again


@command(
    "chat",
    "WORDS [FLAGS]",
    more=("/chat what can you do?", "flags: those of `sensenova chat --help`"),
    options=ANSWER_OPTIONS,
)
def chat(repl: Workspace, line: Line) -> None:
    """Talk; the model sees the pictures of the conversation."""
    brought = repl.bring(line.files)
    if not line.text:
        raise UsageError("there is nothing to say", "for example: /chat what can you do?")
    images = (*repl.session.state.staged, *brought)
    continues = bool(repl.session.state.now.conversation)
    repl.turns.answer("chat", line.text, images, parse_line_options("chat", line.flags), continues=continues)


@command(
    "think",
    "on|off|WORDS",
    more=("/think on", "/think a cat reading a newspaper"),
    options=GENERATE_OPTIONS,
    first=(words({"on": "", "off": ""}),),
)
def think(repl: Workspace, line: Line) -> None:
    """Plan in words before each picture, or before this one."""
    word = line.text.strip().lower()
    if word in ("", "on", "off"):
        if line.flags:
            raise UsageError("/think on and off take no flags", "for example: /think a cat --seed 7")
        set_session_settings(repl, {"think": word != "off"})
        return
    state = repl.session.state
    task: PictureKind = "edit" if state.selected or state.staged else "generate"
    flags = parse_line_options(task, line.flags)
    thinking = replace(flags, settings={**flags.settings, "think": True})
    repl.draw(task, line.text, repl.turn_inputs() if task == "edit" else (), thinking)


@command("again", "[FLAGS]", more=("/again -n 4",), options=GENERATE_OPTIONS)
def again(repl: Workspace, line: Line) -> None:
    """Make the last picture again, with the next seed."""
    if line.text:
        raise UsageError("/again takes flags only", "for example: /again --seed 7")
    turns = [turn for turn in repl.session.state.turns if isinstance(turn, PictureTurn)]
    if not turns:
        raise UsageError("no picture was made yet", "say what to draw: a cat at dusk")
    last = turns[-1]
    flags = parse_line_options(last.kind, line.flags)
    next_seed = int(str(last.settings["seed"])) + int(str(last.settings["num_images"]))
    settings = {**last.typed, "seed": next_seed, **flags.settings}
    repl.draw(last.kind, last.prompt, last.inputs, replace(flags, settings=settings))
