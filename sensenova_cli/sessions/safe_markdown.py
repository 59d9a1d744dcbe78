"""Texts of users and models in a Markdown document that runs and fetches nothing, whichever program shows it.

Programs disagree about what is code, a list or a quotation. So no safety depends on it: characters that can begin HTML,
a link or a picture are written as entities everywhere, and code is written as HTML whose content is entities.
"""

import re

from markdown_it import MarkdownIt

from sensenova_cli.system.unicode import printable, valid_unicode

_DANGEROUS = "<>&[]\\`"
_ENTITIES = {ord(char): f"&#{ord(char)};" for char in _DANGEROUS}
_ALL_MARKUP = _ENTITIES | {ord(char): f"&#{ord(char)};" for char in "*_|~$:{}\n"}
_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
"""A backslash that makes Markdown show the next character unchanged."""


def safe_text(text: str) -> str:
    """Escape a text so that Markdown shows it unchanged, in one paragraph with the same lines."""
    lines = [line.strip() for line in valid_unicode(printable(text)).splitlines()]
    escaped = [line.translate(_ENTITIES) for line in lines if line]
    escaped = [re.sub(r"([*_|~$])", r"\\\1", line) for line in escaped]
    # Headings, lists and rules have a meaning only at the beginning of a line.
    return "\\\n".join(re.sub(r"^(\d+(?=[.)])|)([#+\-=:.)])", r"\1\\\2", line) for line in escaped)


def safe_answer(answer: str) -> str:
    """Return Markdown of a model as a quotation with its headings, lists, tables and emphasis.

    HTML stays text, and links and pictures show their source. Code becomes a block of its own, also in a list.
    """
    lines = valid_unicode(printable(answer)).splitlines()
    blocks: dict[int, tuple[int, str]] = {}
    for token in MarkdownIt("commonmark", {"html": False}).parse("\n".join(lines)):
        if token.type in ("fence", "code_block") and token.map:
            first, end = token.map
            blocks[first] = end, token.content.rstrip("\n") + "\n"
    quoted: list[str] = []
    number = 0
    while number < len(lines):
        if number in blocks:
            number, content = blocks[number]
            quoted += ["", f"<pre><code>{content.translate(_ALL_MARKUP)}</code></pre>", ""]
        else:
            quoted.append(_safe_line(lines[number]))
            number += 1
    return "\n".join(f"> {line}".rstrip() for line in quoted)


def _safe_line(line: str) -> str:
    parts, end = [], 0
    for span in _CODE_SPAN.finditer(line):
        parts.append(_safe_prose(line[end : span.start()]))
        parts.append(f"<code>{span[2].translate(_ALL_MARKUP)}</code>")
        end = span.end()
    return "".join((*parts, _safe_prose(line[end:])))


def _safe_prose(text: str) -> str:
    # `>` begins a quotation at the beginning of a line, and is harmless without `<`.
    shown = _ESCAPED.sub(lambda escaped: f"&#{ord(escaped[1])};", text)
    return re.sub(r"&(?!#\d+;)|[<\[\]\\`]", lambda found: f"&#{ord(found[0])};", shown)
