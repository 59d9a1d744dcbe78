"""`--timings`: the phases of a run, on stderr or as a field of the JSON."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.settings import ImageSettings
from model.events import DenoisingStep, Event, PrefixRead, Statistics
from model.requests import GenerateRequest
from model.timings import FIRST_STEP, PHASES, PREFILL, Timings
from sensenova_cli.system.process_start import seconds_since_start
from tests.cli.harness import Program


def test_a_phase_inside_another_one_does_not_count_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 1.0, 3.0, 7.0))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    timings = Timings()
    with timings.phase("place"), timings.phase("read"):
        pass
    assert timings.phases() == {"place": 1.0 + 4.0, "read": 2.0}


def test_a_phase_ends_with_an_error() -> None:
    timings = Timings()
    with pytest.raises(ValueError), timings.phase("read"):
        raise ValueError
    before = timings.phases()
    with timings.phase("place"):
        pass
    assert timings.phases()["read"] == before["read"]


def test_the_order_is_that_of_a_run() -> None:
    timings = Timings()
    for name in reversed(PHASES):
        timings.add(name, 1.0)
        timings.add(name, 0.5)
    assert list(timings.phases().items()) == [(name, 1.5) for name in PHASES]


def test_phases_that_begin_again_are_discarded() -> None:
    timings = Timings()
    timings.add("read", 2.0)
    timings.add("place", 1.0)
    timings.restart("read", "compile")
    assert timings.phases() == {"place": 1.0}


def stream(*events: Event, closed: list[bool]) -> Iterator[Event]:
    try:
        yield from events
    finally:
        closed.append(True)


def test_the_last_request_replaces_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    timings, closed = Timings(), [False]
    steps = [PrefixRead("condition", 5, 0, 0.0), *(DenoisingStep(0, 1, number, 2, 0.5) for number in (1, 2))]
    for seconds in (1.0, 3.0):
        for event in timings.measure_events(stream(*steps, closed=closed)):
            now[0] += seconds if not isinstance(event, DenoisingStep) else 10.0
    assert timings.phases() == {PREFILL: 0.0, FIRST_STEP: 3.0}
    assert closed == [False, True, True]


def test_a_cancelled_request_is_closed() -> None:
    closed: list[bool] = []
    events = timings_events = Timings().measure_events(stream(DenoisingStep(0, 1, 1, 2, 0.5), closed=closed))
    next(events)
    timings_events.close()  # type: ignore[attr-defined]
    assert closed == [True]


def test_the_process_has_an_age() -> None:
    assert 0 < seconds_since_start() < 86_400


def test_without_proc_the_programs_first_line_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    assert seconds_since_start() > 0


def test_phases_are_printed_on_stderr(program: Program, home: Path) -> None:
    outcome = program("generate", "a cat", "-o", "cat.png", "--timings")
    assert (outcome.code, outcome.stdout) == (0, "cat.png\n")
    assert "start of Python, and imports of the command" in outcome.stderr and "together" in outcome.stderr
    assert "together" in program("generate", "a cat", "-o", "dog.png", "--timings", "-q").stderr, "they were asked for"
    assert "together" not in program("generate", "a cat", "-o", "cow.png").stderr
    assert "together" in program("chat", "hello", "--timings").stderr


def test_phases_are_a_field_of_the_json(program: Program, home: Path) -> None:
    outcome = program("generate", "a cat", "-o", "cat.png", "--timings", "--json")
    timings = json.loads(outcome.stdout)["timings"]
    assert timings["program"] > 0 and set(timings) <= {name.replace(" ", "_") for name in PHASES}
    assert "together" not in outcome.stderr
    assert "timings" in json.loads(program("describe", "cat.png", "--timings", "--json").stdout)
    assert "timings" not in json.loads(program("describe", "cat.png", "--json").stdout)


def test_an_engine_records_its_phases(tiny_checkpoint: Path) -> None:
    from model import Engine, process_timings

    engine = Engine.load(tiny_checkpoint, device="cpu", dtype="float32")
    list(engine.run(GenerateRequest("a cat", ImageSettings(size="64x64", num_steps=1))))
    assert {"device", "card", "place", "read", "compile", "prefill", "first step"} <= set(process_timings.phases())
    events = list(engine.run(GenerateRequest("a cat", ImageSettings(size="64x64", num_steps=1))))
    assert isinstance(events[-1], Statistics)
