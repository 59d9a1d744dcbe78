"""Questions before something is removed, and ages of what is removed."""

import re
import sys
from datetime import datetime, timedelta

import typer

from sensenova_cli.errors import FAILED, UsageError


def require_yes(question: str) -> None:
    """Ask a question on stderr, because stdout is for results; return only if the answer is yes.

    Raises:
        UsageError: standard input has no answer.
        typer.Exit: the user does not agree.
    """
    typer.echo(f"{question} [y/N] ", nl=False, err=True)
    reply = sys.stdin.readline() if sys.stdin is not None else ""
    if not reply:
        typer.echo(err=True)
        raise UsageError("standard input gave no answer, so nothing was removed", "add -y to remove without asking")
    if reply.strip().lower() not in ("y", "yes"):
        typer.echo("nothing was removed", err=True)
        raise typer.Exit(FAILED)


def time_before(age: str) -> datetime:
    """Return the time that lies an age before now: 12h, 30d or 4w. A number alone is days.

    Raises:
        UsageError: the text is not an age.
    """
    found = re.fullmatch(r"(\d{1,5})\s*([hdw]?)", age.strip().lower())
    if found is None:
        raise UsageError(f"--older-than {age}: must be a number of hours, days or weeks", "try --older-than 30d")
    unit = {"h": timedelta(hours=1), "w": timedelta(weeks=1)}.get(found[2], timedelta(days=1))
    return datetime.now().astimezone() - int(found[1]) * unit
