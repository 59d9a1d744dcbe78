"""Commands that copy pictures out of a session, and into it."""

from pathlib import Path

from sensenova_cli.errors import OutputError, OutputWriteError, UsageError
from sensenova_cli.repl.lines import Line, split_words
from sensenova_cli.repl.slash_commands.completion_sources import all_files, picture_files, pictures
from sensenova_cli.repl.slash_commands.registry import command
from sensenova_cli.repl.workspace import Workspace
from sensenova_cli.system.atomic_files import create_file, replace_file


@command(
    "save",
    "[N] [FILE] [-f]",
    more=("/save 3 cat.png",),
    options=("force",),
    first=(pictures, all_files),
    later=(all_files,),
    setting="output",
)
def save(repl: Workspace, line: Line) -> None:
    """Copy a picture out of the session."""
    words = [*split_words(line.text), *line.flags]
    force = "-f" in words or "--force" in words
    words = [word for word in words if word not in ("-f", "--force")]
    number = repl.number(words.pop(0)) if words and words[0].isdecimal() else repl.turn_inputs()[0]
    if len(words) > 1:
        raise UsageError("/save takes a picture's number and a file", "for example: /save 3 cat.png")
    source = repl.session.path(number)
    place = Path(words[0] if words else source.name).expanduser()
    if place.is_dir():
        place /= source.name
    try:
        written = _copy(source, place, force=force)
    except OSError as error:
        raise OutputWriteError(
            f"picture {number} cannot be saved: {error.filename or place}: {error.strerror or error}",
            "name another place: /save FILE",
        ) from error
    if not written:
        raise OutputError(f"{place} exists already", f"use /save {number} {place} -f, or another name")
    repl.result(str(place))


def _copy(source: Path, place: Path, *, force: bool) -> bool:
    """Copy a file; false if `place` exists and is not to be replaced.

    Raises:
        OSError: the file cannot be read or written.
    """
    content = source.read_bytes()
    place.parent.mkdir(parents=True, exist_ok=True)
    if force:
        replace_file(place, content)
        return True
    return create_file([place], content) is not None


@command("load", "FILE", first=(picture_files,))
def load(repl: Workspace, line: Line) -> None:
    """Take a picture from a file in hand."""
    words = split_words(line.text)
    if len(words) != 1:
        raise UsageError("/load takes one picture file", "for example: /load cat.png")
    repl.select(repl.session.bring(words[0]).number)
