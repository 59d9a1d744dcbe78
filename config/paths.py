"""Paths as messages show them. This module works without the settings' models."""

from pathlib import Path


def show_path(path: Path) -> str:
    """Shorten a path for messages: `~` for the home folder, and `./` before a file in the current folder."""
    if not path.is_absolute():
        return str(path) if len(path.parts) > 1 else f"./{path}"
    try:
        return str(Path("~") / path.relative_to(Path.home()))
    except (ValueError, RuntimeError):
        # The path is outside of the home folder, or the user has none, as in minimal containers.
        return str(path)
