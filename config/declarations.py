"""The declarations of all settings as flags, help and completion need them, without pydantic.

`config.settings` declares the settings. Defining its models takes 0.06 s, which help and errors of usage need not wait
for. So `python -m docs.generate_settings` writes the declarations to `declarations.json`, and a test compares both.
"""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

FILE = Path(__file__).parent / "declarations.json"

Kind = Literal["bool", "int", "float", "pair", "text"]


class Declaration(NamedTuple):
    """One setting.

    Attributes:
        help: its meaning.
        default: its default value, as in JSON.
        kind: the type of its value; `pair` for two numbers.
        choices: the words that its value is one of; empty if other values are possible.
    """

    help: str
    default: Any
    kind: Kind
    choices: tuple[str, ...]


def _read() -> dict[str, dict[str, Declaration]]:
    groups = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        group: {name: Declaration(**{**each, "choices": tuple(each["choices"])}) for name, each in settings.items()}
        for group, settings in groups.items()
    }


_GROUPS = _read()
IMAGE, PROMPT, TEXT, LOAD, OUTPUT, SERVE = (
    _GROUPS[group] for group in ("image", "prompt", "text", "load", "output", "serve")
)
"""Name → declaration of each setting in a group of `config.settings`, in the same order."""

DECLARATIONS = {**IMAGE, **PROMPT, **TEXT, **LOAD, **OUTPUT}
"""All settings but those of the server, in the order of `config.settings.SETTING_NAMES`."""
