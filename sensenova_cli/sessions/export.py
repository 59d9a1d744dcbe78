"""Export of a session: a Markdown file with its pictures in a folder beside it, or one HTML page that contains them.

Users and models wrote the prompts, answers and file names, so an exported page must not run or fetch anything that they
contain. Markdown of answers stays, but HTML and pictures become text, and in Markdown exports also links, because some
viewers do not remove scripts from links (`safe_markdown`).
"""

import base64
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from model import PictureError, read_picture
from sensenova_cli.errors import OutputError, OutputWriteError
from sensenova_cli.outputs.picture_files import without_folders
from sensenova_cli.render.html_page import html_page
from sensenova_cli.render.safe_markdown import plain_markdown, safe_lines
from sensenova_cli.sessions.entries import (
    AnswerText,
    AnswerTurn,
    InterleaveTurn,
    Opened,
    PictureTurn,
    SessionPicture,
    Stage,
    Turn,
    Use,
)
from sensenova_cli.sessions.saved import SavedSession
from sensenova_cli.sessions.summary import counted, describe_entry, format_time, picture_facts, turn_facts
from sensenova_cli.system.atomic_files import create_file, replace_file
from sensenova_cli.system.interrupts import unwinding
from sensenova_cli.system.plain_files import read_plain_file
from sensenova_cli.system.streams import MAX_INPUT_BYTES

ENDINGS = (".html", ".htm", ".md", ".markdown")

MEDIA_TYPES = {
    ".png": "image/png",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".avif": "image/avif",
    ".bmp": "image/bmp",
}
"""Media types by the endings of pictures that browsers show. Pictures with other endings are converted to PNG."""


def check_target(target: Path, force: bool) -> None:
    """Check that the document can be created, before anything is written.

    Raises:
        OutputError: the name ends in none of ENDINGS, `target` is a folder, or a file exists and `force` is not given.
    """
    if target.suffix.lower() not in ENDINGS:
        raise OutputError(
            f"{target} does not name an exported session",
            "end it in .html (one page with the pictures in it) or .md (Markdown, pictures beside it)",
        )
    taken = [target, _pictures_folder(target)] if _is_markdown(target) else [target]
    for path in taken:
        if path.exists() and not force:
            raise OutputError(f"{path} exists already", "use -f to replace it, or choose another name with -o")
    if target.is_dir():
        raise OutputError(f"{target} is a folder", "name a file with -o")


def export_session(saved: SavedSession, target: Path, force: bool) -> None:
    """Write a session to `target`; its ending chooses HTML or Markdown.

    Raises:
        OutputError: as for `check_target`.
        OutputWriteError: the disk is full, or the folder is not writable.
    """
    check_target(target, force)
    try:
        with unwinding():
            target.parent.mkdir(parents=True, exist_ok=True)
            if _is_markdown(target):
                _write_markdown(saved, target, force)
            else:
                _write(target, _html_page(saved), force)
    except OSError as error:
        raise OutputWriteError(
            f"{target} cannot be written: {error.strerror or error}",
            "free some disk space, or choose another place with -o",
        ) from error


def _is_markdown(target: Path) -> bool:
    return target.suffix.lower() in (".md", ".markdown")


def _pictures_folder(target: Path) -> Path:
    return target.with_name(f"{target.stem}-pictures")


def _write(path: Path, data: Iterator[bytes] | bytes, force: bool) -> None:
    if force:
        replace_file(path, data)
    elif create_file([path], data) is None:
        raise OutputError(f"{path} was created by another program meanwhile", "use -f to replace it")


def _read_for_browsers(saved: SavedSession, picture: SessionPicture) -> tuple[str, bytes] | None:
    """Return ending and content of a picture in a format that browsers show; None if the file is not readable."""
    path = saved.path(picture.number)
    try:
        content = read_plain_file(path, MAX_INPUT_BYTES + 1) or b""
        image = read_picture(content)  # only a picture may leave the session, whatever the name of the file
        if path.suffix.lower() in MEDIA_TYPES:
            return path.suffix.lower(), without_folders(content)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return ".png", buffer.getvalue()
    except (OSError, PictureError):
        return None


@dataclass(frozen=True)
class _Part:
    """One entry of a session, with the texts and pictures that both kinds of document show.

    Attributes:
        heading: number, kind and time of a turn; empty for any other entry.
        text: the prompt of a turn; a description of any other entry.
        copied: pictures from outside that the entry copied into the session.
        result: the pictures and texts that the turn made, in order.
        facts: inputs, line options and seconds of a turn; for a failed turn also the reason.
        succeeded: False for a turn that failed or was cancelled.
    """

    heading: str
    text: str
    copied: tuple[SessionPicture, ...] = ()
    result: tuple[SessionPicture | AnswerText, ...] = ()
    facts: str = ""
    succeeded: bool = True


def _parts(saved: SavedSession) -> Iterator[_Part]:
    """Yield all entries except `Opened`, which only records the program that opened the session."""
    for entry in saved.entries:
        copied = entry.brought if isinstance(entry, Turn | Use | Stage) else ()
        if isinstance(entry, Turn):
            yield _Part(
                heading=f"{entry.turn} · {entry.kind} · {format_time(entry.when)}",
                text=entry.prompt,
                copied=copied,
                result=_result(entry),
                facts=" · ".join(turn_facts(entry)),
                succeeded=entry.status == "done",
            )
        elif not isinstance(entry, Opened):
            yield _Part("", describe_entry(entry), copied)


def _result(turn: Turn) -> tuple[SessionPicture | AnswerText, ...]:
    """Return the pictures and texts that a turn made, in order, without empty texts."""
    result: tuple[SessionPicture | AnswerText, ...]
    match turn:
        case PictureTurn():
            result = (AnswerText(text=turn.think_text or "", thinking=True), *turn.pictures)
        case AnswerTurn():
            result = (AnswerText(text=turn.answer),)
        case InterleaveTurn():
            result = tuple(part if isinstance(part, SessionPicture) else part.without_tags for part in turn.parts)
    return tuple(part for part in result if isinstance(part, SessionPicture) or part.text)


def _summary(saved: SavedSession) -> str:
    # A model's folder may name the user; its last part is enough.
    model = Path(saved.model).name if Path(saved.model).is_absolute() else saved.model
    turns, pictures = counted(len(saved.state.turns), "turn"), counted(len(saved.state.pictures), "picture")
    return ", ".join(filter(None, (format_time(saved.created), model, turns, pictures)))


def _caption(picture: SessionPicture) -> str:
    return ", ".join((f"picture {picture.number}", *picture_facts(picture, with_folder=False)))


# HTML


def _html_page(saved: SavedSession) -> Iterator[bytes]:
    """Yield the page in pieces, so that only one picture at a time is in memory."""
    return html_page(
        "session.html.jinja",
        name=saved.name,
        summary=_summary(saved),
        parts=_parts(saved),
        figures=partial(_figures, saved),
    )


def _figures(saved: SavedSession, pictures: tuple[SessionPicture, ...]) -> Iterator[dict[str, Any]]:
    """Yield the template's values for each picture; `data` is base64, empty if the file is not readable."""
    for picture in pictures:
        ending, content = _read_for_browsers(saved, picture) or (".png", b"")
        yield {
            "number": picture.number,
            "width": picture.width,
            "height": picture.height,
            "caption": _caption(picture),
            "media_type": MEDIA_TYPES[ending],
            "data": base64.b64encode(content).decode("ascii"),
        }


# Markdown


def _write_markdown(saved: SavedSession, target: Path, force: bool) -> None:
    """Write the pictures, then the document, so that it never names a picture that does not exist."""
    folder = _pictures_folder(target)
    created = bool(saved.state.pictures) and not folder.exists()
    before = _identity(target)
    try:
        links: dict[int, str] = {}
        for picture in saved.state.pictures.values():
            file = _read_for_browsers(saved, picture)
            if file is None:
                continue
            folder.mkdir(exist_ok=True)
            ending, content = file
            path = folder / (Path(picture.file).stem + ending)
            _write(path, content, force)
            links[picture.number] = f"{quote(folder.name)}/{quote(path.name)}"
        text = "\n\n".join(_markdown_blocks(saved, links)) + "\n"
        _write(target, text.encode(), force)
    except BaseException:
        if created and _identity(target) == before:  # a document that was written in the last moment needs them
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _identity(path: Path) -> tuple[int, int] | None:
    """Return a value that changes when the file is created or replaced; None if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _markdown_blocks(saved: SavedSession, links: dict[int, str]) -> Iterator[str]:
    yield f"# {plain_markdown(saved.name)}"
    yield plain_markdown(_summary(saved))
    for part in _parts(saved):
        if part.heading:
            yield f"## {plain_markdown(part.heading)}"
            yield f"**{plain_markdown(part.text)}**"
        else:
            yield f"*{plain_markdown(part.text)}*"
        yield from _markdown_pictures(part.copied, links)
        for piece in part.result:
            if isinstance(piece, SessionPicture):
                yield from _markdown_pictures((piece,), links)
            elif piece.thinking:
                yield "<details><summary>Think text</summary>"
                yield plain_markdown(piece.text)
                yield "</details>"
            else:
                yield _answer_markdown(piece.text)
        if part.facts:
            yield f"*{plain_markdown(part.facts)}*"


def _markdown_pictures(pictures: tuple[SessionPicture, ...], links: dict[int, str]) -> Iterator[str]:
    for picture in pictures:
        caption = plain_markdown(_caption(picture))
        if picture.number in links:
            yield f"![picture {picture.number}]({links[picture.number]})\\\n{caption}"
        else:
            yield f"{caption}: the file is missing or damaged"


def _answer_markdown(answer: str) -> str:
    """Return the answer as a quotation, which also closes a code block that the answer leaves open."""
    return "\n".join(f"> {line}" for line in safe_lines(answer))
