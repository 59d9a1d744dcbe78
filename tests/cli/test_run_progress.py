"""The progress of a run of several requests: its title, the time that is left, and the bar on screens of any width."""

import io

import pytest
from rich.console import Console

from config.settings import ImageSettings
from model import AnswerRequest, GenerateRequest
from sensenova_cli.render import run_progress
from sensenova_cli.render.run_progress import LiveRunSteps, PlainRunSteps, RunProgress


def request(prompt: str, seed: int = 42, count: int = 1, steps: int = 10, size: str = "64x64") -> GenerateRequest:
    return GenerateRequest(prompt, ImageSettings(seed=seed, num_images=count, num_steps=steps, size=size))


def begun(*requests: GenerateRequest) -> RunProgress:
    run = RunProgress.of(requests, 0.0)
    assert run is not None
    return run


def test_only_runs_of_several_pictures_have_it() -> None:
    assert RunProgress.of([request("a")], 0.0) is None
    assert RunProgress.of([AnswerRequest("a"), AnswerRequest("b")], 0.0) is None
    assert RunProgress.of([request("a"), request("b")], 0.0) is not None


def test_the_title_names_number_and_prompt_and_the_seed_if_there_are_several() -> None:
    run = begun(request("a  red\ncat"), request("a dog"))
    assert run.title == "1 of 2: a red cat"
    run = begun(request("a cat", seed=7, count=2), request("a dog", seed=7, count=2))
    run.begin_picture(1)
    assert run.title == "2 of 4, seed 8: a cat"
    run.begin_request(1)
    assert run.title == "3 of 4, seed 7: a dog"


def test_control_characters_of_a_prompt_do_not_reach_the_screen() -> None:
    assert "\x1b" not in begun(request("a \x1b[2J cat"), request("b")).title


def test_the_time_left_is_in_proportion_to_steps_and_pixels() -> None:
    run = begun(request("a"), request("b", steps=20), request("c", size="128x64"))
    assert run.seconds_left(5.0) is None
    run.update(5, 10)
    assert run.seconds_left(5.0) == pytest.approx(45.0)  # half of 10, of 10 + 20 + 2 · 10
    run.begin_request(1)
    assert run.seconds_left(10.0) == pytest.approx(40.0)
    run.begin_request(2)  # what the second one has not done counts as done
    assert run.seconds_left(30.0) == pytest.approx(20.0)


@pytest.mark.parametrize(("width", "has_bar"), [(40, False), (50, False), (60, True), (80, True), (120, True)])
def test_the_bar_fits_beside_a_long_prompt(width: int, has_bar: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(run_progress.time, "perf_counter", lambda: clock[0])
    run = begun(request("a long and winding prompt that does not end " * 5, steps=50), request("b", steps=50))
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None, legacy_windows=False)
    view = LiveRunSteps(console, run)
    clock[0] = 25.0
    view.update(25, 50)
    view._progress.refresh()
    view.close()
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1 of 2: " in shown and "step 25/50" in shown
    assert ("━" in shown) == has_bar
    assert "1 min 15 s left" in shown


def test_lines_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come at the start, at each quarter and at the end, and only in a run that takes some time."""
    clock = [0.0]
    monkeypatch.setattr(run_progress.time, "perf_counter", lambda: clock[0])
    run = RunProgress.of([request(f"{number}") for number in range(8)], 0.0)
    assert run is not None
    console = Console(file=io.StringIO(), width=80)
    lines = PlainRunSteps(console, run)
    for number in range(8):
        run.begin_request(number)
        for step in range(1, 11):
            clock[0] += 1.0
            lines.update(step, 10)
            if clock[0] < 10:
                assert console.file.getvalue() == ""  # type: ignore[attr-defined]
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "8 pictures",
        "8 pictures: 2 of 8, 1 min 00 s left",
        "8 pictures: 4 of 8, 40 s left",
        "8 pictures: 6 of 8, 20 s left",
        "8 pictures: 8 of 8, 1 min 20 s",
    ]
