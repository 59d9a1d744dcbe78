"""Commands that choose pictures, and that go back and forward."""

from sensenova_cli.errors import UsageError
from sensenova_cli.repl.lines import Line, split_words
from sensenova_cli.repl.slash_commands.completion_sources import picture_files, pictures, words
from sensenova_cli.repl.slash_commands.registry import command
from sensenova_cli.repl.workspace import Workspace
from sensenova_cli.sessions.entries import Redo, Stage, Undo, Use


@command("use", "[N|none]", first=(pictures, words({"none": "put the picture down"})))
def use(repl: Workspace, line: Line) -> None:
    """Take picture N in hand; without a number show the candidates."""
    word = line.text.strip()
    if word == "none":
        repl.session.append(Use(picture=None))
        repl.say("no picture in hand: the next words make a new one")
        return
    if word:
        repl.select(repl.number(word))
        return
    state = repl.session.state
    known = state.now.candidates or tuple(state.pictures)
    if not known:
        raise UsageError("there are no pictures yet", "say what to draw: a cat at dusk")
    repl.show_candidates(known)


@command(
    "image",
    "[N|FILE…|none]",
    more=("/image 3 other.png",),
    first=(pictures, words({"none": "stage nothing"}), picture_files),
    later=(pictures, picture_files),
)
def image(repl: Workspace, line: Line) -> None:
    """Stage pictures: they go with the next line."""
    named = split_words(line.text)
    if named == ["none"]:
        repl.session.append(Stage(staged=()))
        repl.say("nothing is staged")
        return
    repl.stage([repl.number(word) if word.isdecimal() else repl.session.bring(word).number for word in named])


@command("undo")
def undo(repl: Workspace, line: Line) -> None:
    """Go back by one turn; pictures stay."""
    before = repl.session.state.now
    if before.conversation != repl.session.append(Undo()).now.conversation:
        repl.say("the last question is forgotten")
    repl.say_selected()


@command("redo")
def redo(repl: Workspace, line: Line) -> None:
    """Take an undo back."""
    before = repl.session.state.now
    if before.conversation != repl.session.append(Redo()).now.conversation:
        repl.say("the question is remembered again")
    repl.say_selected()
