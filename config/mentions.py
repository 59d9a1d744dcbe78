"""Settings mentioned in messages: marked by the library, spelled by the face that shows the message.

The library does not know whether its reader types a command, a line of a session or Python. So a message that mentions
a setting marks it with backticks: `offload=auto` is something to set, `offload` is the name alone. A program replaces
the marks with what its user can type, such as `--offload auto`; a notebook shows them as they are.
"""

import re
from collections.abc import Callable

from config.settings import SETTING_NAMES

INPUT_IMAGES = "images"
"""The pictures that an edit starts from: not a setting, but messages mention them in the same way."""

_MARK = re.compile(rf"`({'|'.join((*SETTING_NAMES, INPUT_IMAGES))})(?:=([^`]+))?`")


def mention(name: str, value: object = None) -> str:
    """The mark of a setting: `name=value`, or `name` where value is None."""
    if value is None:
        return f"`{name}`"
    return f"`{name}={str(value).lower() if isinstance(value, bool) else value}`"


def respell(text: str, spell: Callable[[str, str | None], str]) -> str:
    """Replace every mark in a text; other text in backticks stays.

    Args:
        spell: a setting's name and value → what takes the mark's place; the value is None where none is marked.
    """
    return _MARK.sub(lambda mark: spell(mark[1], mark[2]), text)
