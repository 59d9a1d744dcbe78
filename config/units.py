"""Amounts of memory as people write them."""

import re

UNITS = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def parse_memory(text: str) -> int | None:
    """Bytes of `8GiB`, `7.5 GB`, `900MiB`, in any case; None if it is no such thing, or nothing."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?b)", text.strip().lower())
    if found is None:
        return None
    return int(float(found[1]) * UNITS[found[2]]) or None


def format_memory(count: int) -> str:
    """Bytes like `7.9 GiB` or `900 MiB`."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
