"""Lists of tensor names that a person can read."""

import re
from collections.abc import Iterable, Sequence

NUMBERED = re.compile(r"(?<=layers\.|xperts\.)\d+")
"""A layer's or an expert's number in a tensor's name."""


def listed(names: Iterable[str]) -> str:
    """All names, one line for those that differ only in layer and expert numbers: `layers.{0-4,7}.mlp…`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(NUMBERED.sub("*", name), []).append(name)
    lines = [members[0] if len(members) == 1 else _collapsed(pattern, members) for pattern, members in groups.items()]
    return "\n".join(f"  {line}" for line in lines)


def _collapsed(pattern: str, members: Sequence[str]) -> str:
    """One line for names of the same pattern: each `*` becomes the numbers that stand there."""
    columns = zip(*(NUMBERED.findall(name) for name in members), strict=True)
    for column in columns:
        pattern = pattern.replace("*", f"{{{_ranges(sorted({int(number) for number in column}))}}}", 1)
    return f"{pattern} ({len(members)})"


def _ranges(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 5] → '0-2,5'."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
