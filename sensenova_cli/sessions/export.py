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

from markdown_it import MarkdownIt

from model import PictureError, read_picture
from sensenova_cli.errors import OutputError, OutputWriteError
from sensenova_cli.outputs.png_metadata import without_folders
from sensenova_cli.sessions.entries import AnswerTurn, Opened, PictureTurn, SessionPicture, Stage, Use
from sensenova_cli.sessions.safe_markdown import safe_answer, safe_text
from sensenova_cli.sessions.saved import SavedSession
from sensenova_cli.sessions.summary import counted, describe_entry, format_time, picture_facts, turn_facts
from sensenova_cli.system.atomic_files import create_file, replace_file
from sensenova_cli.system.interrupts import unwinding
from sensenova_cli.system.plain_files import read_plain_file
from sensenova_cli.system.streams import MAX_INPUT_BYTES
from sensenova_cli.system.unicode import printable, valid_unicode

ENDINGS = (".html", ".htm", ".md", ".markdown")
PAGE_TEMPLATE = Path(__file__).with_name("page.html.jinja")

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
            f"{target} cannot be written: {error.strerror or error}", "make room, or choose another place with -o"
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
        made: pictures that the turn made.
        facts: inputs, line options and seconds of a turn; for a failed turn also the reason.
        succeeded: False for a turn that failed or was cancelled.
    """

    heading: str
    text: str
    copied: tuple[SessionPicture, ...] = ()
    think_text: str = ""
    made: tuple[SessionPicture, ...] = ()
    answer: str = ""
    facts: str = ""
    succeeded: bool = True


def _parts(saved: SavedSession) -> Iterator[_Part]:
    """Yield all entries except `Opened`, which only records the program that opened the session."""
    for entry in saved.entries:
        copied = entry.brought if isinstance(entry, PictureTurn | AnswerTurn | Use | Stage) else ()
        if isinstance(entry, PictureTurn | AnswerTurn):
            yield _Part(
                heading=f"{entry.turn} · {entry.kind} · {format_time(entry.when)}",
                text=entry.prompt,
                copied=copied,
                think_text=(entry.think_text or "") if isinstance(entry, PictureTurn) else "",
                made=entry.pictures if isinstance(entry, PictureTurn) else (),
                answer=entry.answer if isinstance(entry, AnswerTurn) else "",
                facts=" · ".join(turn_facts(entry)),
                succeeded=entry.status == "done",
            )
        elif not isinstance(entry, Opened):
            yield _Part("", describe_entry(entry), copied)


def _summary(saved: SavedSession) -> str:
    # A model's folder may name the user; its last part is enough.
    model = Path(saved.model).name if Path(saved.model).is_absolute() else saved.model
    turns, pictures = counted(len(saved.state.turns), "turn"), counted(len(saved.state.pictures), "picture")
    return ", ".join(filter(None, (format_time(saved.created), model, turns, pictures)))


def _caption(picture: SessionPicture) -> str:
    return ", ".join((f"picture {picture.number}", *picture_facts(picture, with_folder=False)))


def _markdown_parser() -> MarkdownIt:
    """Return a parser for Markdown without HTML and without pictures; `![a](b)` becomes a link."""
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("image")


# HTML


def _html_page(saved: SavedSession) -> Iterator[bytes]:
    """Yield the page in pieces, so that only one picture at a time is in memory."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        finalize=_clean,
    )
    environment.filters["markdown"] = _answer_html
    template = environment.from_string(PAGE_TEMPLATE.read_text(encoding="utf-8"))
    pieces = template.generate(
        name=saved.name, summary=_summary(saved), parts=_parts(saved), figures=partial(_figures, saved)
    )
    for piece in pieces:
        yield piece.encode()


def _clean(value: Any) -> Any:
    """Remove control characters and lone surrogates from text that is not markup already."""
    return valid_unicode(printable(value)) if isinstance(value, str) and not hasattr(value, "__html__") else value


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


def _answer_html(answer: str) -> str:
    html: str = _markdown_parser().render(valid_unicode(printable(answer)))
    return html


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
    yield f"# {safe_text(saved.name)}"
    yield safe_text(_summary(saved))
    for part in _parts(saved):
        if part.heading:
            yield f"## {safe_text(part.heading)}"
            yield f"**{safe_text(part.text)}**"
        else:
            yield f"*{safe_text(part.text)}*"
        yield from _markdown_pictures(part.copied, links)
        if part.think_text:
            yield "<details><summary>Think text</summary>"
            yield safe_text(part.think_text)
            yield "</details>"
        yield from _markdown_pictures(part.made, links)
        if part.answer:
            yield safe_answer(part.answer)
        if part.facts:
            yield f"*{safe_text(part.facts)}*"


def _markdown_pictures(pictures: tuple[SessionPicture, ...], links: dict[int, str]) -> Iterator[str]:
    for picture in pictures:
        caption = safe_text(_caption(picture))
        if picture.number in links:
            yield f"![picture {picture.number}]({links[picture.number]})\\\n{caption}"
        else:
            yield f"{caption}: the file is missing or damaged"
