"""Slash commands that copy pictures out of a session, and into it: /save, /load."""

from pathlib import Path

from config.settings import PictureFormat
from config.validation import join_or
from model import open_picture, read_picture
from sensenova_cli.errors import OutputError, OutputWriteError, UsageError
from sensenova_cli.inputs.pictures import read_content
from sensenova_cli.outputs.picture_files import FORMATS, EncodedPicture, encode_picture, readable_record
from sensenova_cli.outputs.picture_names import DEFAULT_ENDINGS
from sensenova_cli.repl.lines import Line, split_words
from sensenova_cli.repl.slash_commands.completion_sources import all_files, picture_files, pictures
from sensenova_cli.repl.slash_commands.registry import slash_command
from sensenova_cli.repl.workspace import Workspace
from sensenova_cli.system.atomic_files import create_file, replace_file


@slash_command(
    "save",
    "[N] [FILE] [-f]",
    more=("/save 3 cat.png",),
    options=("force",),
    first=(pictures, all_files),
    later=(all_files,),
    setting="output",
)
def save(workspace: Workspace, line: Line) -> None:
    """Copy the selected picture, or picture N, out of the session."""
    words = [*split_words(line.text), *line.flags]
    force = "-f" in words or "--force" in words
    words = [word for word in words if word not in ("-f", "--force")]
    number = workspace.number(words.pop(0)) if words and words[0].isdecimal() else workspace.turn_inputs()[0]
    if len(words) > 1:
        raise UsageError("/save takes a picture's number and a file", "for example: /save 3 cat.png")
    source = workspace.session.path(number)
    settings = workspace.turns.current_settings().settings
    name = source.name if settings.format == "png" else f"{source.stem}{DEFAULT_ENDINGS[settings.format]}"
    target = Path(words[0] if words else name).expanduser()
    if target.is_dir():
        target /= name
    form = FORMATS.get(target.suffix.lower())
    if form is None:
        raise OutputError(
            f"{target} does not end in {join_or(list(FORMATS))}", f"for example: /save {number} {target.stem}.png"
        )
    try:
        saved = _converted(read_content(str(source)), form, settings.quality)
        is_written = _write(saved.content, target, force=force)
    except OSError as error:
        raise OutputWriteError(
            f"picture {number} cannot be saved: {error.filename or target}: {error.strerror or error}",
            "choose another place: /save FILE",
        ) from error
    except ValueError as error:  # WebP has up to 16,383 pixels a side
        raise OutputError(f"picture {number} cannot be saved as {target}: {error}", "save it as PNG") from error
    if not is_written:
        raise OutputError(f"{target} exists already", f"use /save {number} {target} -f, or another name")
    workspace.print_result(str(target))
    if saved.missing:
        workspace.say(f"a JPEG file has no room for {saved.missing}; PNG and WebP files have it")


def _converted(content: bytes, form: PictureFormat, quality: int) -> EncodedPicture:
    """Return a picture file in another format, with its record; the same bytes if it has that format already."""
    with open_picture(content) as image:
        if image.format == form.upper():
            return EncodedPicture(content)
    return encode_picture(read_picture(content), readable_record(content), form, quality)


def _write(content: bytes, target: Path, *, force: bool) -> bool:
    """Write a file; return False if `target` exists and `force` is False.

    Raises:
        OSError: the file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if force:
        replace_file(target, content)
        return True
    return create_file([target], content) is not None


@slash_command("load", "FILE", first=(picture_files,))
def load(workspace: Workspace, line: Line) -> None:
    """Select a picture from a file."""
    words = split_words(line.text)
    if len(words) != 1:
        raise UsageError("/load takes one picture file", "for example: /load cat.png")
    workspace.select(workspace.session.import_picture(words[0]).number)
