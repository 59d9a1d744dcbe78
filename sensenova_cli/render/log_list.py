"""The list of logged requests, for `sensenova log` and `/log`."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sensenova_cli.log.entries import LogEntry
from sensenova_cli.log.files import quick_state
from sensenova_cli.system.unicode import printable

MAX_NAME = 30
"""Longest file name or beginning of an answer in a list on a screen, in columns."""


def log_lines(entries: Sequence[LogEntry], width: int) -> list[str]:
    """Return one line for each entry: number, time, task, prompt, result.

    Args:
        width: columns of the screen, to which prompts and results are cut; 0 for no screen.
    """
    digits = max((len(str(entry.number)) for entry in entries), default=0)
    lines = []
    for entry in entries:
        time = _time(entry, full=not width)
        start = f"{entry.number:>{digits}}  {time}  {entry.task:<10}  "
        prompt, result = printable(" ".join(entry.prompt.split())), printable(_result(entry, full=not width))
        lines.append(
            f"{start}{_fitted(prompt, result, width - len(start)) if width else f'{prompt}  {result}'}".rstrip()
        )
    return lines


def _time(entry: LogEntry, *, full: bool) -> str:
    """Return when a request began; on a screen the hour if it was today, else the day."""
    time = entry.time.astimezone()
    if full:
        return time.strftime("%Y-%m-%d %H:%M")
    return time.strftime("%H:%M" if time.date() == datetime.now().date() else "%Y-%m-%d").ljust(10)


def _fitted(prompt: str, result: str, width: int) -> str:
    """Return prompt and result on one line of a screen."""
    from rich.cells import cell_len

    # The prompt gets what the result leaves, but at least half of the line if it needs that much.
    room = min(cell_len(prompt), max(width - 2 - cell_len(result), width // 2, 8))
    return f"{_cut_cells(prompt, room)}  {_cut_cells(result, max(width - room - 2, 8))}"


def _cut_cells(text: str, most: int) -> str:
    """Cut a text to columns of a screen."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= most else set_cell_size(text, most - 1).rstrip() + "…"


def _result(entry: LogEntry, *, full: bool) -> str:
    """Return what a list says of a result: the first file and its state, the status, or the answer's beginning."""
    status = "" if entry.status == "done" else f"({entry.status})"
    if not entry.files:
        answer = " ".join(entry.answer.split())
        return status or (f"→ {answer if full else _cut(answer)}" if answer else "")
    file = entry.files[0]
    more = f" +{len(entry.files) - 1}" if len(entry.files) > 1 else ""
    state = quick_state(file)
    name = file.path if full else _cut(Path(file.path).name)
    return " ".join(filter(None, (f"→ {name}{more}", "" if state == "there" else f"({state})", status)))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_NAME else f"{text[: MAX_NAME - 1]}…"
