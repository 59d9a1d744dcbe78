"""Edits of one setting in the text of a settings file. All other lines stay as they are, with their comments."""

import re
from typing import Any

from config.toml_file import SERVE_TABLE, find_key, is_toml, toml_literal


def set_setting(text: str, name: str, value: Any, *, serve: bool = False) -> str:
    """Return the text with a setting.

    A line that sets it gets the new value and keeps its comment. Otherwise the new line goes below the comment that has
    the setting, as in the file of `sensenova profile init`; without one, to the end of its table.

    Args:
        text: valid TOML.
        serve: whether the setting belongs to the table of the server.
    """
    head, table = _split(text if not text or text.endswith("\n") else f"{text}\n")
    part = table if serve else head
    assignment = f"{name} = {toml_literal(value)}"
    found = _find_lines(part, name)
    lines = part.split("\n")
    if found is not None:
        first, last = found
        lines[first:last] = [assignment + _comment("\n".join(lines[first:last]))]
    elif serve and not part:
        gap = "" if not head or head.endswith("\n\n") else "\n"
        return f"{head}{gap}[{SERVE_TABLE}]\n{assignment}\n"
    else:
        lines.insert(_place(lines, name), assignment)
    changed = "\n".join(lines)
    if not changed.endswith("\n"):
        changed += "\n"
    return head + changed if serve else changed + table


def unset_setting(text: str, name: str, *, serve: bool = False) -> str:
    """Return the text without the lines that set a setting; arguments as for `set_setting`."""
    head, table = _split(text)
    part = table if serve else head
    found = _find_lines(part, name)
    if found is None:
        return text
    lines = part.split("\n")
    del lines[found[0] : found[1]]
    changed = "\n".join(lines)
    return head + changed if serve else changed + table


def _split(text: str) -> tuple[str, str]:
    """Split a text before the header of the server's table, which is the last part of the file."""
    header = find_key(text, SERVE_TABLE)
    if header is None:
        return text, ""
    lines = text.split("\n")
    head = "\n".join(lines[: header[0] - 1])
    return (f"{head}\n" if head or header[0] > 1 else ""), "\n".join(lines[header[0] - 1 :])


def _find_lines(part: str, name: str) -> tuple[int, int] | None:
    """Return the first line of a setting, from 0, and the line after its last one; None if no line sets it."""
    lines = part.split("\n")
    # Without its header, the lines of a table are valid TOML by themselves.
    first = 1 if part.lstrip().startswith("[") else 0
    found = find_key("\n".join(lines[first:]), name)
    if found is None:
        return None
    start = first + found[0] - 1
    for end in range(start + 1, len(lines) + 1):
        if is_toml("\n".join(lines[start:end])):
            return start, end
    return None


def _comment(assignment: str) -> str:
    """Return the comment at the end of an assignment, with the spaces before it; empty without one."""
    for position, letter in enumerate(assignment):
        if letter == "#" and "\n" not in assignment[position:] and is_toml(assignment[:position]):
            start = len(assignment[:position].rstrip())
            return assignment[start:]
    return ""


def _place(lines: list[str], name: str) -> int:
    """Return the number of the line before which a new setting goes."""
    commented = re.compile(rf"\s*#\s*{re.escape(name)}\s*=")
    for number, line in enumerate(lines):
        if commented.match(line):
            return number + 1
    last = len(lines)
    while last > 0 and not lines[last - 1].strip():
        last -= 1
    return last
