"""Text with file names that are not UTF-8. Python represents their undecodable bytes as lone surrogates."""

import json
import sys
from typing import Any


def valid_unicode(text: str) -> str:
    """Return the text with lone surrogates escaped, as in `caf\\udce9.png`, so that it can be encoded."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


DIRECTION_MARKS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Invisible characters that change the order in which a terminal shows a line."""

_ESCAPED = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), *map(ord, DIRECTION_MARKS))}


def printable(text: str) -> str:
    """Remove the characters with which a text could move the cursor, change the screen or hide its meaning."""
    return "".join(letter for letter in text if letter in "\n\t" or _is_harmless(letter))


def for_terminal(text: object) -> str:
    """Return a result for stdout: as it is for a file or a program, `printable` for a terminal."""
    return printable(str(text)) if sys.stdout.isatty() else str(text)


def _is_harmless(letter: str) -> bool:
    return letter.isprintable() or (ord(letter) >= 0xA0 and letter not in DIRECTION_MARKS)


def json_text(value: Any) -> str:
    """Return JSON in plain UTF-8. A reader gets every file name back, even if its bytes are not UTF-8. Characters that
    change a terminal are escaped."""
    # These characters occur only inside JSON strings, where the escapes have the same meaning.
    return valid_unicode(json.dumps(value, ensure_ascii=False).translate(_ESCAPED))
