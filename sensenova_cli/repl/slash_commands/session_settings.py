"""Changes of a session's settings, which several slash commands make."""

from collections.abc import Mapping
from typing import Any

from config.settings import SESSION_SETTINGS, LoadSettings
from config.validation import check_values
from sensenova_cli.errors import UsageError
from sensenova_cli.repl.session_notation import SESSION_NOTATION, format_value
from sensenova_cli.repl.slash_commands.registry import COMMANDS
from sensenova_cli.repl.workspace import Workspace
from sensenova_cli.sessions.entries import Set

STARTED_WITH = {"weights": "start another session with --weights FILE"}
"""Settings that a session keeps, with a hint."""


def hint_instead_of_set(name: str) -> str | None:
    """Return a hint how to change a setting that `/set` cannot change; None for other settings."""
    if name in STARTED_WITH:
        return STARTED_WITH[name]
    instead = next((command for command in COMMANDS.values() if command.setting == name), None)
    return f"use /{instead.name} {instead.usage}" if instead else None


def set_session_settings(workspace: Workspace, values: Mapping[str, Any]) -> None:
    """Set settings for the following turns, and print them. A load setting reloads the model.

    Args:
        values: by the names of the settings; text is converted to the setting's type.

    Raises:
        SenseNovaError: a name is unknown, `/set` cannot change it, or a value is invalid. Nothing is set.
    """
    for name, value in values.items():
        if hint := hint_instead_of_set(name) or _hint_for_size(name, value):
            raise UsageError(f"/set cannot change {name}", hint)
    checked = check_values(values, SESSION_NOTATION, SESSION_SETTINGS)
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in checked.items()}
    state = workspace.session.state
    workspace.turns.resolve_with({**state.settings, **plain}, state.profile)  # a value may contradict another setting
    workspace.session.append(Set(settings=plain))
    workspace.say(", ".join(f"{name} = {format_value(value)}" for name, value in plain.items()))
    if any(name in LoadSettings.model_fields for name in plain):
        workspace.reload_if_changed()


def _hint_for_size(name: str, value: Any) -> str | None:
    """Return a hint for names of flags that set a part of the setting `size`; None for other names."""
    match name:
        case "width":
            return f"use /set size {value or 'WIDTH'}xHEIGHT, or end a line with --width {value or 'WIDTH'}"
        case "height":
            return f"use /set size WIDTHx{value or 'HEIGHT'}, or end a line with --height {value or 'HEIGHT'}"
        case "aspect":
            return f"use /set size {value or '16:9'}"
        case _:
            return None
