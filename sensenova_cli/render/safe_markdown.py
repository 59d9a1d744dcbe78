"""Markdown of a model, made safe: text, lists, tables and code stay, but nothing runs, links or loads a picture.

Models write what users and their pictures make them write. Some viewers of Markdown run HTML and scripts in links.
"""

import re

from markdown_it import MarkdownIt
from markdown_it.token import Token

from sensenova_cli.system.unicode import printable, valid_unicode

_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
"""A backslash that makes Markdown show the next character unchanged."""
_ENTITIES_OF_LINKS = {ord(sign): f"&#{ord(sign)};" for sign in "<>&[]\\`"}
_ENTITIES = _ENTITIES_OF_LINKS | {ord(sign): f"&#{ord(sign)};" for sign in "*_|~$:{}"}
"""All signs that begin or end markup in some viewer."""


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
    # Not a backslash before `<` or `[`: it would become part of a web address, which GitHub's Markdown links.
    escaped = [line.translate(_ENTITIES_OF_LINKS) for line in lines if line]
    escaped = [re.sub(r"([*_|~$])", r"\\\1", line) for line in escaped]
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
    """Replace the signs that begin HTML, links and pictures by entities. Code within the line would show the entities,
    so it is written as HTML."""
    parts, end = [], 0
    for span in _CODE_SPAN.finditer(line):
        parts += [_without_html_in_prose(line[end : span.start()]), f"<code>{span[2].translate(_ENTITIES)}</code>"]
        end = span.end()
    return "".join((*parts, _without_html_in_prose(line[end:])))


def _without_html_in_prose(text: str) -> str:
    # `>` begins a quotation at the beginning of a line, and is harmless without `<`.
    shown = _ESCAPED.sub(lambda escaped: f"&#{ord(escaped[1])};", text)
    return re.sub(r"[<\[\\`]", lambda found: f"&#{ord(found[0])};", shown)


def _is_open_fence(token: Token, lines: list[str]) -> bool:
    """Return whether a token is a block of code between fences whose second fence is missing."""
    if token.type != "fence" or token.level or token.map is None:
        return False
    begin, end = token.map
    last = lines[min(end, len(lines)) - 1].strip()
    return end - begin < 2 or not (last.startswith(token.markup) and not last.strip(token.markup[0]))
