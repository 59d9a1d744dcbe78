"""Descriptions of turns, pictures and other entries, for `sessions show` and exported pages."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from pydantic import JsonValue

from sensenova_cli.sessions.entries import (
    AnswerTurn,
    Entry,
    InterleaveTurn,
    Opened,
    PictureTurn,
    Redo,
    SessionPicture,
    Set,
    Stage,
    Turn,
    Undo,
    Unset,
    Use,
    UseProfile,
)


def counted(count: int, thing: str) -> str:
    """Return a count with its noun: `1 picture`, `2 pictures`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def shorten(text: str, most: int) -> str:
    """Return the text on one line, cut to `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def format_time(when: datetime) -> str:
    """Format a time to the minute in the user's time zone."""
    return when.astimezone().strftime("%Y-%m-%d %H:%M")


def turn_facts(turn: Turn) -> list[str]:
    """Return the facts about a turn besides its prompt and result; a failure comes first."""
    facts = []
    if turn.status != "done":
        facts.append(turn.status + (f": {turn.reason}" if turn.reason else ""))
    if turn.inputs:
        facts.append("about " + _pictures(turn.inputs))
    if turn.typed:
        facts.append(_assignments(turn.typed))
    finish = None if isinstance(turn, PictureTurn) else turn.finish
    if finish == "length":
        facts.append("the answer was cut off at max_tokens")
    if finish == "images":
        facts.append("the answer was cut off at max_images")
    if turn.seconds:
        facts.append(f"{turn.seconds:.1f} s")
    return facts


def picture_facts(picture: SessionPicture, *, with_folder: bool) -> list[str]:
    """Return the facts about a picture besides its number and file.

    Args:
        with_folder: include the folder of a copy's original; False for documents that strangers read.
    """
    size = f"{picture.width}x{picture.height}"
    if picture.seed is not None:
        return [size, f"seed {picture.seed}"]
    if picture.source is None or picture.source == "-":
        return [size, "from standard input"]
    return [size, f"copy of {picture.source if with_folder else Path(picture.source).name}"]


def describe_entry(entry: Entry) -> str:
    """Describe an entry in one line; return an empty text for a turn."""
    match entry:
        case PictureTurn() | AnswerTurn() | InterleaveTurn():
            return ""
        case Opened():
            return f"opened with {entry.model}, sensenova {entry.version}"
        case Use():
            return "selected no picture" if entry.picture is None else f"selected picture {entry.picture}"
        case Stage():
            return f"staged {_pictures(entry.staged)}" if entry.staged else "unstaged all pictures"
        case Undo():
            return "undo"
        case Redo():
            return "redo"
        case Set():
            return f"set {_assignments(entry.settings)}"
        case Unset():
            return f"unset {', '.join(entry.names)}"
        case UseProfile():
            return "no profile" if entry.profile is None else f"profile {entry.profile}"


def _pictures(numbers: Sequence[int]) -> str:
    return f"picture{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _assignments(settings: Mapping[str, JsonValue]) -> str:
    return ", ".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in settings.items())
