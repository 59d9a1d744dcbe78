"""An interleaved answer as one HTML page that contains its pictures."""

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from model import PictureError, TextPart, read_picture
from sensenova_cli.errors import OutputError, OutputWriteError
from sensenova_cli.outputs.picture_files import FORMATS, without_folders
from sensenova_cli.render.html_page import html_page
from sensenova_cli.system.atomic_files import check_writable, create_file, replace_file

ENDINGS = (".html", ".htm")


def check_page(target: Path, *, force: bool) -> None:
    """Check that the page can be written, before anything is made; create its folder.

    Raises:
        OutputError: the name has another ending, it is a folder's, the file exists and `force` is False, or its folder
            cannot be written.
    """
    if target.suffix.lower() not in ENDINGS:
        raise OutputError(f"{target} does not name a page", f"end it in {ENDINGS[0]}")
    if target.is_dir():
        raise OutputError(f"{target} is a folder", "name a file: --html story.html")
    if target.exists() and not force:
        raise OutputError(f"{target} exists already", "use -f to replace it, or choose another name with --html")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        check_writable(target.parent)
    except OSError as error:
        raise OutputError(
            f"no file can be written in the folder {target.parent}: {error.strerror or error}",
            "choose another place with --html",
        ) from error


def write_page(target: Path, prompt: str, parts: Sequence[TextPart | Path], *, problem: str, force: bool) -> None:
    """Write the page.

    Args:
        parts: texts, and files of pictures, in order.
        problem: why the answer is not complete; empty if it is.
        force: replace an existing file.

    Raises:
        OutputWriteError: the disk is full, or another program has created the file meanwhile.
    """
    page = html_page("answer.html.jinja", name=prompt, parts=_parts(parts), problem=problem)
    try:
        if force:
            replace_file(target, page)
        elif create_file([target], page) is None:
            raise OutputWriteError(f"another program has created {target} meanwhile", "use -f to replace it")
    except OSError as error:
        raise OutputWriteError(
            f"{target} cannot be written: {error.strerror or error}", "make room, or choose another place with --html"
        ) from error


def _parts(parts: Sequence[TextPart | Path]) -> Iterator[dict[str, Any]]:
    number = 0
    for part in parts:
        if isinstance(part, TextPart):
            text = part.text.removeprefix("<think>").removesuffix("</think>") if part.thinking else part.text
            if text.strip():
                yield {"text": text.strip("\n"), "thinking": part.thinking, "data": ""}
        else:
            number += 1
            try:
                content = part.read_bytes()
                width, height = read_picture(content).size
            except (OSError, PictureError):  # it was removed meanwhile, or went to /dev/null
                yield {"text": f"(picture {number} is missing)", "thinking": False, "data": ""}
                continue
            data = base64.b64encode(without_folders(content)).decode("ascii")  # pages are sent to others
            form = FORMATS[part.suffix.lower()]
            yield {"number": number, "width": width, "height": height, "format": form, "data": data}
