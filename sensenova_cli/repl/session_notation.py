"""The notation of settings in a session, for messages about their values: `/set num_steps 30`."""

from typing import Any

from config.validation import Notation


def format_value(value: Any) -> str:
    """Format a setting's value as `/set` reads it."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    if value is None:
        return "none"
    if value == "":
        return '""'
    return str(value).lower() if isinstance(value, bool) else str(value)


SESSION_NOTATION = Notation(
    place=lambda name: "",
    key=lambda name: f"/set {name}",
    equals=" ",
    literal=format_value,
    text=True,
    culprit=lambda name: f"/set {name}: ",
)
