"""Amounts as text: of memory and files, and of things that are counted."""

import re

UNITS = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def parse_memory(text: str) -> int | None:
    """Parse an amount like `8GiB`, `7.5 GB` or `900mib` to bytes; return None if it has another form or is zero."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?b)", text.strip().lower())
    if found is None:
        return None
    return int(float(found[1]) * UNITS[found[2]]) or None


def format_memory(count: int) -> str:
    """Format bytes of memory, in binary units as the setting `gpu_memory` has them: `7.9 GiB` or `900 MiB`."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def format_bytes(count: int) -> str:
    """Format bytes of files and downloads, in decimal units as the Hub and disks have them: `16.3 GB`, `512 MB`."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def count_of(number: int, noun: str) -> str:
    """Format a number of things: `1 step`, `4 steps`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
