"""Waiting in tests, for conditions that hold soon on a quiet machine and much later on a busy one."""

import time
from collections.abc import Callable

PATIENCE = 300.0
"""Seconds after which only a fault explains that something has not happened. A busy machine may need twenty times as
long as a quiet one, so tests use this limit instead of limits of their own. It costs time only in tests that fail."""


def until(condition: Callable[[], bool], what: str = "it") -> None:
    """Wait until a condition holds; fail after `PATIENCE`."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} does not become true"
        time.sleep(0.01)
