"""Slash commands that select pictures: /use, /image."""

from sensenova_cli.errors import UsageError
from sensenova_cli.repl.lines import Line, split_words
from sensenova_cli.repl.slash_commands.completion_sources import fixed_words, picture_files, pictures
from sensenova_cli.repl.slash_commands.registry import slash_command
from sensenova_cli.repl.workspace import Workspace
from sensenova_cli.sessions.entries import Stage, Use


@slash_command("use", "[N|none]", first=(pictures, fixed_words({"none": "select no picture"})))
def use(workspace: Workspace, line: Line) -> None:
    """Select picture N; without N, show the pictures to choose from."""
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
    "[N|FILE…|none]",
    more=("/image 3 other.png",),
    first=(pictures, fixed_words({"none": "stage nothing"}), picture_files),
    later=(pictures, picture_files),
)
def image(workspace: Workspace, line: Line) -> None:
    """Stage pictures: the next line edits them or asks about them."""
    words = split_words(line.text)
    if words == ["none"]:
        workspace.session.append(Stage(staged=()))
        workspace.say("nothing is staged")
        return
    numbers = [
        workspace.number(word) if word.isdecimal() else workspace.session.import_picture(word).number for word in words
    ]
    workspace.stage(numbers)
