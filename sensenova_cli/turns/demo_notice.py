"""The notice that no model is configured and the built-in demo is used. It is shown once a day."""

import os
from contextlib import suppress
from datetime import date
from pathlib import Path

from platformdirs import user_state_path

from config.mentions import mention
from config.operating_system import NO_LINKS, NO_WAITING
from config.recommended import read_recommended
from config.settings import LoadSettings
from model import DEMO_CHECKPOINT, OFFICIAL_MODEL

SHOWN_FILE = "demo-notice"
"""File in the user's state folder with the day on which the notice was last shown."""


def demo_notice(settings: LoadSettings) -> str:
    """Return the notice if these settings name no model and it was not shown today, else an empty text.

    The day is noted in a file that only the user can read. If it cannot be written, the notice appears every time.
    """
    if settings.model is not None or settings.is_remote:
        return ""
    today = date.today().isoformat()
    if _last_shown() == today:
        return ""
    with suppress(OSError, RuntimeError):  # RuntimeError: this user has no home folder
        _note(today)
    recommended = read_recommended(DEMO_CHECKPOINT)
    (width, height), *others = recommended.trained_sizes
    more = f" and {len(others)} other sizes" if others else ""
    world = recommended.world
    known = f"{len(world.shapes)} shapes, {len(world.objects)} objects, " if world is not None else ""
    return (
        f"Using the built-in demo ({known}{width}×{height}{more}). "
        f"For the real model: {mention('model', OFFICIAL_MODEL)} (35 GB download)."
    )


def _last_shown() -> str:
    """Return the day that the file contains; empty without a readable file."""
    with suppress(OSError, RuntimeError, ValueError):
        handle = os.open(_file(), os.O_RDONLY | NO_LINKS | NO_WAITING)
        with os.fdopen(handle, encoding="ascii") as stream:
            return stream.read(len("2026-01-31"))
    return ""


def _note(day: str) -> None:
    file = _file()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NO_LINKS | NO_WAITING, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as stream:
        stream.write(day)


def _file() -> Path:
    """Return the file; the variable SENSENOVA_DATA_DIR overrides its folder."""
    override = os.environ.get("SENSENOVA_DATA_DIR")
    folder = Path(override).expanduser() if override else user_state_path("sensenova", appauthor=False)
    return folder / SHOWN_FILE
