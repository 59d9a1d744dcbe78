"""The slash command that compares pictures: /compare."""

from collections.abc import Sequence

from sensenova_cli.comparing.comparison import ComparedPicture, Comparison, compare_pictures, compared
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.pictures import read_content
from sensenova_cli.render.comparison import SHEET_TILE, comparison_sheet, comparison_table
from sensenova_cli.render.sheet import Sheet
from sensenova_cli.repl.lines import Line, split_words
from sensenova_cli.repl.slash_commands.completion_sources import all_files, pictures
from sensenova_cli.repl.slash_commands.registry import slash_command
from sensenova_cli.repl.workspace import Workspace
from sensenova_cli.sessions.entries import AnswerTurn
from sensenova_cli.sessions.state import State
from sensenova_cli.turns.sheet_files import SheetFile

MOST_NUMBERS = 2


@slash_command(
    "compare",
    "[N] [M] [FILE] [-f]",
    aliases=("before-after",),
    more=(
        "/compare shows the selected picture beside the one that it was made from",
        "/compare 1 3 shows two pictures, and what differs",
        "/compare 1 3 both.png writes them into a file, too",
    ),
    options=("force",),
    first=(pictures, all_files),
    later=(pictures, all_files),
)
def compare(workspace: Workspace, line: Line) -> None:
    """Show an edit's input and result, or two pictures, side by side."""
    words = [*split_words(line.text), *line.flags]
    force = "-f" in words or "--force" in words
    words = [word for word in words if word not in ("-f", "--force")]
    numbers = []
    while words and words[0].isdecimal():
        numbers.append(workspace.number(words.pop(0)))
    if len(words) > 1 or len(numbers) > MOST_NUMBERS:
        raise UsageError("/compare takes up to two pictures and a file", "for example: /compare 1 3 both.png")
    if len(numbers) == MOST_NUMBERS and numbers[0] == numbers[1]:
        raise UsageError(f"picture {numbers[0]} is compared with itself", "name two pictures: /compare 1 3")
    file = SheetFile.prepare(words[0], workspace.say, force=force) if words else None
    if len(numbers) == MOST_NUMBERS:
        sheet = _show_two(workspace, numbers)
    else:
        result = numbers[0] if numbers else workspace.named_picture("")
        sheet = _show_edit(workspace, result)
    if file is not None:
        workspace.print_result(str(file.write(sheet, SHEET_TILE)[0]))


def _show_two(workspace: Workspace, numbers: Sequence[int]) -> Sheet:
    """Show two pictures and their differences."""
    comparison = _compare(workspace, *numbers)
    workspace.show_together(numbers)
    workspace.print(comparison_table(comparison))
    for note in comparison.notes:
        workspace.say(note)
    return comparison_sheet(comparison)


def _show_edit(workspace: Workspace, result: int) -> Sheet:
    """Show a picture beside those that it was made from."""
    inputs, prompt = _origin(workspace.session.state, result)
    workspace.show_together([*inputs, result])
    images = [workspace.session.read(number).image for number in (*inputs, result)]
    before = f"picture {inputs[0]}" if len(inputs) == 1 else f"pictures {', '.join(map(str, inputs))}"
    likeness = f" · {_compare(workspace, inputs[0], result).measures}" if len(inputs) == 1 else ""
    workspace.say(f"before: {before} · after: picture {result}{likeness}")
    labels = [*(["before"] if len(inputs) == 1 else [f"before {number}" for number in inputs]), "after"]
    return Sheet([images], prompt, labels)


def _origin(state: State, result: int) -> tuple[tuple[int, ...], str]:
    """Return the numbers of the pictures that a picture was made from, and its prompt.

    Raises:
        UsageError: it was not made from a picture.
    """
    for turn in state.turns:
        if isinstance(turn, AnswerTurn) or result not in [picture.number for picture in turn.pictures]:
            continue
        inputs = tuple(number for number in turn.inputs if number in state.pictures)
        if inputs:
            return inputs, turn.prompt
    others = [number for number in state.pictures if number != result]
    raise UsageError(
        f"picture {result} was not made from another picture",
        f"name two pictures: /compare {others[-1]} {result}" if others else "this session has only one picture so far",
    )


def _compare(workspace: Workspace, one: int, other: int) -> Comparison:
    return compare_pictures(_read(workspace, one), _read(workspace, other))


def _read(workspace: Workspace, number: int) -> ComparedPicture:
    workspace.session.read(number)  # explains a missing file
    return compared(f"picture {number}", read_content(str(workspace.session.path(number))))
