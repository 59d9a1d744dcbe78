"""A session as a document: a Markdown file with its pictures beside it, or one HTML page that holds them.

Prompts, answers and file names come from users and models: what they hold is shown, and never acts. Answers keep their
Markdown, but no HTML, and no picture that a viewer would fetch from elsewhere; in Markdown, no links either, which only
some viewers look through for scripts.
"""

import base64
import io
import re
import shutil
from collections.abc import Iterator
from html import escape
from pathlib import Path
from urllib.parse import quote

from markdown_it import MarkdownIt

from model import PictureError, read_picture
from sensenova_cli.errors import OutputError, OutputWriteError
from sensenova_cli.render.console import printable
from sensenova_cli.sessions.entries import AnswerTurn, Entry, Opened, PictureTurn, SessionPicture, Stage, Turn, Use
from sensenova_cli.sessions.saved import SavedSession
from sensenova_cli.sessions.summary import entry_words, how_many, picture_facts, turn_facts, when_text
from sensenova_cli.system.atomic_files import create_file, replace_file
from sensenova_cli.system.unicode import valid_unicode

ENDINGS = (".html", ".htm", ".md", ".markdown")

SHOWN_FORMATS = {
    ".png": "image/png",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".avif": "image/avif",
    ".bmp": "image/bmp",
}
"""Endings of pictures that browsers show, with their media types; others are turned into PNG."""

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
section { border-top: 1px solid #8886; margin-top: 1.5rem; }
h2 { font-size: 1rem; font-weight: normal; opacity: .7; margin-bottom: 0; }
.prompt { font-size: 1.15rem; font-weight: 600; white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; }
.note { opacity: .7; font-size: .9rem; overflow-wrap: anywhere; }
.trouble { color: #c33; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; }
figcaption { opacity: .7; font-size: .9rem; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
.answer pre { background: #8882; padding: .6rem; }
"""


def check_target(target: Path, force: bool) -> None:
    """Refuse what cannot be written, before anything is.

    Raises:
        OutputError: the name ends in none of ENDINGS, or something is there and `force` is not given.
    """
    if target.suffix.lower() not in ENDINGS:
        raise OutputError(
            f"{target} is no name for an exported session",
            "end it in .html (one page with the pictures in it) or .md (Markdown, pictures beside it)",
        )
    taken = [target, _pictures_folder(target)] if _is_markdown(target) else [target]
    for path in taken:
        if path.exists() and not force:
            raise OutputError(f"{path} exists already", "use -f to replace it, or choose another name with -o")
    if target.is_dir():
        raise OutputError(f"{target} is a folder", "name a file with -o")


def export_session(saved: SavedSession, target: Path, force: bool) -> None:
    """Write the document.

    Raises:
        OutputError: as for `check_target`.
        OutputWriteError: the disk is full, or the folder cannot be written.
    """
    check_target(target, force)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if _is_markdown(target):
            _write_markdown(saved, target, force)
        else:
            _write(target, _page(saved), force)
    except OSError as error:
        raise OutputWriteError(
            f"{target} cannot be written: {error.strerror or error}", "make room, or choose another place with -o"
        ) from error


def _is_markdown(target: Path) -> bool:
    return target.suffix.lower() in (".md", ".markdown")


def _pictures_folder(target: Path) -> Path:
    return target.with_name(f"{target.stem}-pictures")


def _write(path: Path, parts: Iterator[bytes] | bytes, force: bool) -> None:
    if force:
        replace_file(path, parts)
    elif create_file([path], parts) is None:
        raise OutputError(f"{path} was created by another program meanwhile", "use -f to replace it")


def _shown(saved: SavedSession, picture: SessionPicture) -> tuple[str, bytes] | None:
    """A picture's file as browsers can show it, with its ending; None where it cannot be read."""
    path = saved.path(picture.number)
    try:
        if path.suffix.lower() in SHOWN_FORMATS:
            return path.suffix.lower(), path.read_bytes()
        buffer = io.BytesIO()
        read_picture(path).save(buffer, "PNG")
        return ".png", buffer.getvalue()
    except (OSError, PictureError):
        return None


def _happened(saved: SavedSession) -> Iterator[Entry]:
    """The entries that a reader cares about: all but those that tell of a program."""
    for entry in saved.entries:
        if not isinstance(entry, Opened):
            yield entry


def _pictures_of(entry: Entry) -> tuple[tuple[SessionPicture, ...], tuple[SessionPicture, ...]]:
    """The pictures that an entry brought, and those that it made."""
    brought = entry.brought if isinstance(entry, PictureTurn | AnswerTurn | Use | Stage) else ()
    return brought, entry.pictures if isinstance(entry, PictureTurn) else ()


def _summary(saved: SavedSession) -> str:
    turns, pictures = how_many(len(saved.state.turns), "turn"), how_many(len(saved.state.pictures), "picture")
    return ", ".join(filter(None, (when_text(saved.created), _model(saved.model), turns, pictures)))


def _model(model: str) -> str:
    """A Hub id as it is; of a folder, its name."""
    return Path(model).name if Path(model).is_absolute() else model


def _heading(turn: Turn) -> str:
    return f"{turn.turn} · {turn.kind} · {when_text(turn.when)}"


def _caption(picture: SessionPicture) -> str:
    return ", ".join((f"picture {picture.number}", *picture_facts(picture, with_folder=False)))


# HTML


def _page(saved: SavedSession) -> Iterator[bytes]:
    for part in _page_parts(saved):
        yield part.encode()


def _page_parts(saved: SavedSession) -> Iterator[str]:
    yield (
        '<!DOCTYPE html>\n<html>\n<head>\n<meta charset="utf-8">\n'
        # Were anything to slip through: a page that may run nothing and fetch nothing.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_html(saved.name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{_html(saved.name)}</h1>\n<p class="note">{_html(_summary(saved))}</p>\n'
    )
    for entry in _happened(saved):
        brought, made = _pictures_of(entry)
        if isinstance(entry, PictureTurn | AnswerTurn):
            yield f"<section>\n<h2>{_html(_heading(entry))}</h2>\n"
            yield f'<p class="prompt" dir="auto">{_html(entry.prompt)}</p>\n'
            yield from _figures(saved, brought)
            if isinstance(entry, PictureTurn) and entry.think_text:
                think = _html(entry.think_text)
                yield f'<details><summary>Think text</summary><pre dir="auto">{think}</pre></details>\n'
            yield from _figures(saved, made)
            if isinstance(entry, AnswerTurn) and entry.answer:
                yield f'<div class="answer" dir="auto">\n{_answer_html(entry.answer)}</div>\n'
            if facts := turn_facts(entry):
                trouble = "" if entry.status == "done" else " trouble"
                yield f'<p class="note{trouble}">{_html(" · ".join(facts))}</p>\n'
            yield "</section>\n"
        else:
            yield f'<p class="note">{_html(entry_words(entry))}</p>\n'
            yield from _figures(saved, brought)
    yield "</body>\n</html>\n"


def _figures(saved: SavedSession, pictures: tuple[SessionPicture, ...]) -> Iterator[str]:
    for picture in pictures:
        caption = _html(_caption(picture))
        shown = _shown(saved, picture)
        if shown is None:
            yield f'<p class="note trouble">{caption}: the file is missing or damaged</p>\n'
            continue
        ending, content = shown
        data = base64.b64encode(content).decode("ascii")
        yield (
            f'<figure id="picture-{picture.number}"><img alt="picture {picture.number}" width="{picture.width}" '
            f'height="{picture.height}" src="data:{SHOWN_FORMATS[ending]};base64,{data}">'
            f"<figcaption>{caption}</figcaption></figure>\n"
        )


def _html(text: str) -> str:
    return escape(valid_unicode(printable(text)))


def _markdown_parser() -> MarkdownIt:
    """Markdown without HTML, and without pictures, which would be fetched; `![a](b)` becomes a link."""
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("image")


def _answer_html(answer: str) -> str:
    html: str = _markdown_parser().render(valid_unicode(printable(answer)))
    return html


# Markdown


def _write_markdown(saved: SavedSession, target: Path, force: bool) -> None:
    """The pictures first: the document never names one that is not there."""
    folder = _pictures_folder(target)
    created = bool(saved.state.pictures) and not folder.exists()
    try:
        files: dict[int, str] = {}
        for picture in saved.state.pictures.values():
            shown = _shown(saved, picture)
            if shown is None:
                continue
            folder.mkdir(exist_ok=True)
            ending, content = shown
            path = folder / (Path(picture.file).stem + ending)
            _write(path, content, force)
            files[picture.number] = f"{quote(folder.name)}/{quote(path.name)}"
        text = "\n\n".join(_markdown_blocks(saved, files)) + "\n"
        _write(target, text.encode(), force)
    except BaseException:
        if created:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _markdown_blocks(saved: SavedSession, files: dict[int, str]) -> Iterator[str]:
    yield f"# {_plain(saved.name)}"
    yield _plain(_summary(saved))
    for entry in _happened(saved):
        brought, made = _pictures_of(entry)
        if isinstance(entry, PictureTurn | AnswerTurn):
            yield f"## {_plain(_heading(entry))}"
            yield f"**{_plain(entry.prompt)}**"
            yield from _markdown_pictures(brought, files)
            if isinstance(entry, PictureTurn) and entry.think_text:
                yield "<details><summary>Think text</summary>"
                yield _plain(entry.think_text)
                yield "</details>"
            yield from _markdown_pictures(made, files)
            if isinstance(entry, AnswerTurn) and entry.answer:
                yield _answer_markdown(entry.answer)
            if facts := turn_facts(entry):
                yield f"*{_plain(' · '.join(facts))}*"
        else:
            yield f"*{_plain(entry_words(entry))}*"
            yield from _markdown_pictures(brought, files)


def _markdown_pictures(pictures: tuple[SessionPicture, ...], files: dict[int, str]) -> Iterator[str]:
    for picture in pictures:
        caption = _plain(_caption(picture))
        if picture.number in files:
            yield f"![picture {picture.number}]({files[picture.number]})\\\n{caption}"
        else:
            yield f"{caption}: the file is missing or damaged"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in one paragraph; its lines stay lines."""
    lines = [line.strip() for line in valid_unicode(printable(text)).splitlines()]
    escaped = [re.sub(r"([\\`*_\[\]<>&|~$])", r"\\\1", line) for line in lines if line]
    # What means something at the beginning of a line only: headings, lists, rules.
    return "\\\n".join(re.sub(r"^(\d+(?=[.)])|)([#+\-=:.)])", r"\1\\\2", line) for line in escaped)


def _answer_markdown(answer: str) -> str:
    """The answer as a quotation, so that a code block that it leaves open ends with it."""
    lines = valid_unicode(printable(answer)).splitlines()
    code: set[int] = set()
    for token in _markdown_parser().parse("\n".join(lines)):
        if token.type in ("fence", "code_block") and token.map:
            code.update(range(*token.map))
    return "\n".join(f"> {line if number in code else _without_html(line)}" for number, line in enumerate(lines))


def _without_html(line: str) -> str:
    """Without HTML, links and pictures: `<` and `[` spelled out unless a backslash does away with their meaning."""
    spelled = {"<": "&lt;", "[": "&#91;"}
    return re.sub(r"\\.|[<\[]", lambda found: spelled.get(found[0], found[0]), line)
