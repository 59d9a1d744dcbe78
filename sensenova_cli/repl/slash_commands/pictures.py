"""Slash commands that select and show pictures: /use, /image, /ls, /show, /open, /copy."""

from rich.table import Table
from rich.text import Text

from config.toml_file import show_path
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.argv import PICTURE_ENDINGS
from sensenova_cli.outputs.clipboard_pictures import NO_CLIPBOARD, copy_picture
from sensenova_cli.repl.lines import Line, split_words
from sensenova_cli.repl.slash_commands.completion_sources import fixed_words, picture_files, pictures
from sensenova_cli.repl.slash_commands.registry import slash_command
from sensenova_cli.repl.workspace import Workspace
from sensenova_cli.sessions.entries import AnswerTurn, PictureTurn, SessionPicture, Stage, Use
from sensenova_cli.sessions.state import State
from sensenova_cli.sessions.summary import picture_facts
from sensenova_cli.system.clipboard import copy_text
from sensenova_cli.system.desktop import open_file
from sensenova_cli.system.plain_files import read_plain_file
from sensenova_cli.system.streams import MAX_INPUT_BYTES
from sensenova_cli.system.unicode import printable


@slash_command("use", "[N|none]", first=(pictures, fixed_words({"none": "select no picture"})))
def use(workspace: Workspace, line: Line) -> None:
    """Select picture N; without N, show the last pictures."""
    word = line.text.strip()
    if word == "none":
        workspace.session.append(Use(picture=None))
        workspace.say("no picture is selected: the next prompt makes a new one")
        return
    if word:
        workspace.select(workspace.number(word))
        return
    state = workspace.session.state
    known = state.now.candidates or tuple(state.pictures)
    if not known:
        raise UsageError("there are no pictures yet", "type what to draw: a cat at dusk")
    workspace.show_candidates(known)


@slash_command(
    "image",
    "[N|FILE…|clipboard|none]",
    more=("/image 3 other.png",),
    first=(pictures, fixed_words({"none": "stage nothing", "clipboard": "what was copied"}), picture_files),
    later=(pictures, picture_files),
)
def image(workspace: Workspace, line: Line) -> None:
    """Stage pictures: the next line edits them or asks about them."""
    words = split_words(line.text)
    if words == ["none"]:
        workspace.session.append(Stage(staged=()))
        workspace.say("unstaged all pictures")
        return
    numbers = [
        workspace.number(word) if word.isdecimal() else workspace.session.import_picture(word).number for word in words
    ]
    workspace.stage(numbers)


@slash_command("ls", aliases=("list", "pictures"))
def list_pictures(workspace: Workspace, line: Line) -> None:
    """List the pictures of this session."""
    state = workspace.session.state
    if not state.pictures:
        raise UsageError("there are no pictures yet", "type what to draw: a cat at dusk")
    table = Table.grid(padding=(0, 2))
    for column in ("number", "size", "seed"):
        table.add_column(justify="right" if column == "number" else "left", no_wrap=True)
    table.add_column(overflow="ellipsis", no_wrap=True)
    for number, picture in state.pictures.items():
        seed = "" if picture.seed is None else f"seed {picture.seed}"
        mark = "› " if number == state.now.selected else ""
        origin = Text(printable(_origin(state, picture)))
        table.add_row(f"{mark}{number}", f"{picture.width}x{picture.height}", seed, origin)
    workspace.print(table)


def _origin(state: State, picture: SessionPicture) -> str:
    """Return how a picture came into the session: the prompt that made it, or the file that was copied."""
    for turn in state.turns:
        if isinstance(turn, PictureTurn) and picture in turn.pictures:
            about = f" of {', '.join(map(str, turn.inputs))}" if turn.inputs else ""
            return " ".join(f"{turn.kind}{about}: {turn.prompt}".split())
    return picture_facts(picture, with_folder=False)[1]


@slash_command("show", "[N]", more=("/show 3",), first=(pictures,))
def show(workspace: Workspace, line: Line) -> None:
    """Show the selected picture, or picture N."""
    number = workspace.named_picture(line.text.strip())
    workspace.show_picture(number)
    picture = workspace.session.state.picture(number)
    facts = [_origin(workspace.session.state, picture), *picture_facts(picture, with_folder=False)]
    workspace.print_picture_name(f"picture {number}", workspace.session.lasting_path(number))
    workspace.print_text(" · ".join(dict.fromkeys(facts)))  # the origin of a copy is its second fact


@slash_command(
    "open", "[N|folder]", more=("/open 3",), first=(pictures, fixed_words({"folder": "the folder of the pictures"}))
)
def open_picture(workspace: Workspace, line: Line) -> None:
    """Open a picture, or their folder, on the desktop."""
    word = line.text.strip()
    number = workspace.named_picture("" if word == "folder" else word)
    path = workspace.session.lasting_path(number)
    if word == "folder":
        path = path.parent
    elif path.suffix.lower() not in PICTURE_ENDINGS:
        # In a session of a stranger, it may be a program or a page that the desktop would run.
        raise UsageError(f"{path.name} is not named as a picture", f"to look at it here: /show {number}")
    else:
        workspace.session.read(number)  # it must be one, too
    if not open_file(path):
        raise UsageError("no desktop was found that could open the picture", f"the file is {path}")
    workspace.say(f"opened {show_path(path)}")


@slash_command(
    "copy", "[N|answer]", more=("/copy 3",), first=(pictures, fixed_words({"answer": "the text of the last answer"}))
)
def copy(workspace: Workspace, line: Line) -> None:
    """Copy a picture, or the last answer, to the clipboard."""
    word = line.text.strip()
    if word == "answer":
        turns = [turn for turn in workspace.session.state.turns if isinstance(turn, AnswerTurn) and turn.answer]
        if not turns:
            raise UsageError("there are no answers yet", "ask something first: ? which animal is this?")
        if not copy_text(turns[-1].answer):
            raise UsageError(NO_CLIPBOARD, "select the text with the mouse")
        workspace.say("copied the last answer")
        return
    number = workspace.named_picture(word)
    if copy_picture(read_plain_file(workspace.session.path(number), MAX_INPUT_BYTES + 1) or b""):
        workspace.say(f"copied picture {number}")
    elif copy_text(str(path := workspace.session.lasting_path(number))):
        workspace.say(f"copied the path of picture {number}: this clipboard takes text only")
    else:
        raise UsageError(NO_CLIPBOARD, f"the file is {path}")
