"""Lists of tensor names in messages, kept short."""

import re
from collections.abc import Iterable, Sequence

NUMBERED = re.compile(r"(?<=layers[._]|xperts[._])\d+")
"""The number of a layer or an expert in a tensor's name."""


def format_names(names: Iterable[str], most: int | None = None) -> str:
    """List names, one per line. Names that differ only in layer and expert numbers share a line, like
    `layers.{0-4,7}.mlp…`.

    Args:
        most: number of lines, after which the other names are counted; None for all.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(NUMBERED.sub("*", name), []).append(name)
    lines = [members[0] if len(members) == 1 else _collapsed(pattern, members) for pattern, members in groups.items()]
    if most is not None and len(lines) > most:
        others = sum(len(members) for members in list(groups.values())[most:])
        lines = [*lines[:most], f"… and {others} more"]
    return "\n".join(f"  {line}" for line in lines)


def _collapsed(pattern: str, members: Sequence[str]) -> str:
    """Return one line for names of the same pattern, with the numbers in place of each `*`."""
    columns = zip(*(NUMBERED.findall(name) for name in members), strict=True)
    for column in columns:
        pattern = pattern.replace("*", f"{{{_ranges(sorted({int(number) for number in column}))}}}", 1)
    return f"{pattern} ({len(members)})"


def _ranges(numbers: Sequence[int]) -> str:
    """Write sorted numbers as ranges: [0, 1, 2, 5] → '0-2,5'."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in ranges)
