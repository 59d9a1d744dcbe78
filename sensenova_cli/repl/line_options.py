"""The flags of one turn, merged from the start of the program, the session and the line."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sensenova_cli.inputs.flags import Flags

NO_PROFILE = "none"
"""What a session has for its profile where the one it was started with is not to be used."""


def merged(start: Flags, session: Mapping[str, Any], profile: str | None, line: Flags) -> Flags:
    """The flags of one turn: those the program was started with, what the session has set, and the line's own."""
    settings = {**start.settings, **session, **line.settings}
    of_session = None if profile == NO_PROFILE else profile or start.profile
    if not (line.width or line.height or "size" in session or "size" in line.settings):
        line = replace(line, width=start.width, height=start.height)
    return replace(line, settings=settings, profile=line.profile or of_session)
