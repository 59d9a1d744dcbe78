"""The time since this process started, imports of the interpreter and of the program included."""

import time
from pathlib import Path

from config.operating_system import clock_ticks, seconds_since_boot
from sensenova_cli import IMPORTED_AT


def seconds_since_start() -> float:
    """Return the seconds since the process started: on Linux in hundredths, elsewhere since our first line ran."""
    try:
        # The name in brackets may contain spaces. The 20th field after it is the start in ticks since the boot.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / clock_ticks()
        return seconds_since_boot() - started
    except (OSError, AttributeError, IndexError, ValueError):
        return time.perf_counter() - IMPORTED_AT
