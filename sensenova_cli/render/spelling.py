"""Spelling of the settings in a message: as flags, or as commands of a session (see config.mentions)."""

from collections.abc import Callable, Mapping

from config.declarations import DECLARATIONS
from config.mentions import INPUT_IMAGES, respell

Spelling = Callable[[str], str]
"""Replaces the marks of settings in a text by their spelling."""

COMMANDS: Mapping[str, str] = {"model": "/model", "lora": "/lora", INPUT_IMAGES: "/load"}
"""Setting → the session command that sets it. `/set` sets all others."""


def as_flags(text: str) -> str:
    """Spell settings for a shell.

    `offload=auto` → --offload auto, `offload` → --offload, `metadata=false` → --no-metadata.
    """
    return respell(text, _flag)


def as_session(text: str) -> str:
    """Spell settings for a session.

    `offload=auto` → /set offload auto, `offload` → offload, `model=demo` → /model demo.
    """
    return respell(text, _slash_command)


def _flag(name: str, value: str | None) -> str:
    flag = "image" if name == INPUT_IMAGES else name.replace("_", "-")
    if name in DECLARATIONS and DECLARATIONS[name].kind == "bool":
        return f"--no-{flag}" if value == "false" else f"--{flag}"
    return f"--{flag}" if value is None else f"--{flag} {value}"


def _slash_command(name: str, value: str | None) -> str:
    return name if value is None else f"{COMMANDS.get(name, f'/set {name}')} {value}"
