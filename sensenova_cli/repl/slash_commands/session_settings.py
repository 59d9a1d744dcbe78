"""Which settings a session can set for the turns to come, and how it sets them."""

from collections.abc import Mapping
from typing import Any

from config.settings import SESSION_SETTINGS, LoadSettings
from config.validation import Notation, check_values
from sensenova_cli.errors import UsageError
from sensenova_cli.repl.slash_commands.registry import COMMANDS
from sensenova_cli.repl.workspace import Workspace
from sensenova_cli.sessions.entries import Set

_NOTATION = Notation(
    place=lambda name: "",
    key=lambda name: f"/set {name}",
    equals=" ",
    literal=lambda value: format_value(value),
    text=True,
    culprit=lambda name: f"/set {name}: ",
)


def hint_instead_of_set(name: str) -> str | None:
    """A hint that says how to change a setting that `/set` cannot change; None for one that it can change."""
    instead = next((command for command in COMMANDS.values() if command.setting == name), None)
    return f"use /{instead.name} {instead.usage}" if instead else None


def set_session_settings(repl: Workspace, values: Mapping[str, Any]) -> None:
    """Set settings for the following turns, and say so. A load setting loads the model again.

    Args:
        values: by the names of the settings; text is converted to the setting's type.

    Raises:
        SenseNovaError: a name is unknown, a session cannot set it, or a value does not fit: nothing is set.
    """
    for name in values:
        if hint := hint_instead_of_set(name):
            raise UsageError(f"{name} cannot be set within a session", hint)
    checked = check_values(values, _NOTATION, SESSION_SETTINGS)
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in checked.items()}
    state = repl.session.state
    repl.turns.check({**state.settings, **plain}, state.profile)  # a value may contradict another setting
    repl.session.append(Set(settings=plain))
    repl.say(", ".join(f"{name} = {format_value(value)}" for name, value in plain.items()))
    if any(name in LoadSettings.model_fields for name in plain):
        repl.follow_load_settings()


def format_value(value: Any) -> str:
    """A setting's value as `/set` takes it."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
