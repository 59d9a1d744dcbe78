"""The time that a run still needs, as text and on the bar of a screen."""

import io

import pytest
from rich.console import Console

from sensenova_cli.render.progress import LiveSteps, format_seconds, time_left


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (3599, "59 min 59 s"),
     (3600, "1 h 00 min"), (12_000, "3 h 20 min")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_the_time_of_later_pictures_is_named() -> None:
    assert time_left(40) == "40 s left"
    assert time_left(40, later=8) == "40 s left in all"


@pytest.mark.parametrize(("later", "text"), [(0, "10 s left"), (30, "40 s left in all")])
def test_a_bar_shows_the_time_left_of_the_run(later: int, text: str) -> None:
    """A step takes a second; ten steps of this picture are left, and `later` steps of others."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    steps = LiveSteps(console, "picture", later=later)
    clock = 0.0
    steps._progress.get_time = lambda: clock
    steps.update(0, 20)
    for number in range(1, 11):
        clock = float(number)
        steps.update(number, 20)
    steps._progress.refresh()
    steps.close()
    assert text in console.file.getvalue()  # type: ignore[attr-defined]
