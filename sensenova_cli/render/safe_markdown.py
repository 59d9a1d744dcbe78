"""Markdown of a model, made safe: text, lists, tables and code stay, but nothing runs, links or loads a picture.

Models write what users and their pictures make them write. Some viewers of Markdown run HTML and scripts in links.
"""

import re

from markdown_it import MarkdownIt
from markdown_it.token import Token

from sensenova_cli.system.unicode import printable, valid_unicode


def markdown_parser() -> MarkdownIt:
    """Return a parser for Markdown without HTML and without pictures; `![a](b)` becomes a link."""
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("image")


def answer_html(answer: str) -> str:
    """Return an answer's Markdown as HTML."""
    html: str = markdown_parser().render(valid_unicode(printable(answer)))
    return html


def safe_lines(answer: str) -> list[str]:
    """Return the lines of an answer's Markdown without HTML, links and pictures."""
    lines = valid_unicode(printable(answer)).splitlines()
    return _without_html_outside_code(lines, markdown_parser().parse("\n".join(lines)))


def safe_markdown(answer: str) -> str:
    """Return an answer's Markdown without HTML, links and pictures. Code that it leaves open is closed, so that text
    below it is not part of the code."""
    lines = valid_unicode(printable(answer)).splitlines()
    tokens = markdown_parser().parse("\n".join(lines))
    safe = _without_html_outside_code(lines, tokens)
    if tokens and _is_open_fence(tokens[-1], lines):
        safe.append(tokens[-1].markup)
    return "\n".join(safe)


def plain_markdown(text: str) -> str:
    """Escape text so that Markdown shows it unchanged, in one paragraph with the same lines."""
    lines = [line.strip() for line in valid_unicode(printable(text)).splitlines()]
    escaped = [re.sub(r"([\\`*_\[\]<>&|~$])", r"\\\1", line) for line in lines if line]
    # Headings, lists and rules have a meaning only at the beginning of a line.
    return "\\\n".join(re.sub(r"^(\d+(?=[.)])|)([#+\-=:.)])", r"\1\\\2", line) for line in escaped)


def _without_html_outside_code(lines: list[str], tokens: list[Token]) -> list[str]:
    # Only code between fences stays as it is: viewers disagree about where indented code begins.
    code: set[int] = set()
    for token in tokens:
        if token.type == "fence" and token.map:
            code.update(range(*token.map))
    return [line if number in code else _without_html(line) for number, line in enumerate(lines)]


def _without_html(line: str) -> str:
    """Replace `<` and `[` by entities, unless a backslash escapes them: no HTML, links or pictures remain."""
    entities = {"<": "&lt;", "[": "&#91;"}
    return re.sub(r"\\.|[<\[]", lambda found: entities.get(found[0], found[0]), line)


def _is_open_fence(token: Token, lines: list[str]) -> bool:
    """Return whether a token is a block of code between fences whose second fence is missing."""
    if token.type != "fence" or token.level or token.map is None:
        return False
    begin, end = token.map
    last = lines[min(end, len(lines)) - 1].strip()
    return end - begin < 2 or not (last.startswith(token.markup) and not last.strip(token.markup[0]))
