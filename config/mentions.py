"""Marks of settings in messages: the library marks a setting, the program spells it.

The library does not know whether its user types a command, a line of a session or Python. So its messages mark settings
with backticks: `offload=auto` is a value to set, `offload` is only the name. A program replaces the marks with text
that its user can type, such as `--offload auto`; a notebook shows them unchanged.
"""

import re
from collections.abc import Callable
from functools import cache

from config.declarations import DECLARATIONS

INPUT_IMAGES = "images"
"""Name of an edit's input pictures, which messages mention like a setting."""


def mention(name: str, value: object = None) -> str:
    """Return the mark of a setting: `name=value`, or `name` if the value is None."""
    if value is None:
        return f"`{name}`"
    return f"`{name}={str(value).lower() if isinstance(value, bool) else value}`"


def respell(text: str, spell: Callable[[str, str | None], str]) -> str:
    """Replace all marks in a text. Other text in backticks stays.

    Args:
        spell: name and value of a setting → the text to show; the value is None if the mark has none.
    """
    if "`" not in text:
        return text
    return _mark().sub(lambda mark: spell(mark[1], mark[2]), text)


@cache
def _mark() -> re.Pattern[str]:
    return re.compile(rf"`({'|'.join((*DECLARATIONS, INPUT_IMAGES))})(?:=([^`]+))?`")
