"""Ctrl-C and SIGTERM: nothing half-written, exit code 130."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from sensenova_cli.system.interrupts import SignalStop
from tests.cli.fake_engine import FakeEngine
from tests.cli.harness import REPOSITORY, Program, start, wait_until_started
from tests.waiting import PATIENCE

LONG = "600"
"""More seconds than any test waits: a program that does not end earlier fails the test."""


def _signal_at(step: int, number: signal.Signals = signal.SIGINT) -> object:
    def prepare(engine: FakeEngine) -> None:
        def on_step(at: int) -> None:
            if at == step:
                signal.raise_signal(number)

        engine.on_step = on_step

    return prepare


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_request_after_the_step(program: Program, home: Path, number: signal.Signals) -> None:
    program.prepare = _signal_at(2, number)  # type: ignore[assignment]
    outcome = program("generate", "x", "-o", "a.png")
    assert (outcome.code, outcome.stdout) == (130, "")
    assert outcome.stderr.splitlines()[-1] == "interrupted"
    assert program.engines[0].request_closed
    assert list(home.iterdir()) == []


def test_finished_pictures_are_kept_after_a_signal(program: Program, home: Path) -> None:
    def prepare(engine: FakeEngine) -> None:
        seen: list[int] = []

        def on_step(number: int) -> None:
            seen.append(number)
            if len(seen) == 6:
                signal.raise_signal(signal.SIGINT)

        engine.on_step = on_step

    program.prepare = prepare
    outcome = program("generate", "x", "-n", "3")
    assert (outcome.code, outcome.stdout) == (130, "x-42.png\n")
    assert [path.name for path in home.iterdir()] == ["x-42.png"]


def test_an_answer_ends_with_its_line(program: Program) -> None:
    program.prepare = _signal_at(2)  # type: ignore[assignment]
    outcome = program("chat", "Hello")
    assert (outcome.code, outcome.stdout) == (130, "It is \n")


def test_a_signal_while_loading_ends_the_program(program: Program) -> None:
    program.load_error = KeyboardInterrupt()
    outcome = program("generate", "x")
    assert outcome.code == 130
    assert outcome.stderr.splitlines()[-1] == "interrupted"


def test_a_command_leaves_the_signal_handlers_unchanged(program: Program) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    program("generate", "x")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def _wait_for(stream: object, text: bytes) -> bytes:
    """Read until the text appears, or fail when the process ends."""
    seen = b""
    while text not in seen:
        part = os.read(stream.fileno(), 4096)  # type: ignore[attr-defined]
        assert part, seen
        seen += part
    return seen


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_a_process(home: Path, number: signal.Signals) -> None:
    process = start("generate", "x", "--num-steps", "1000", FAKE_STEP_SECONDS="0.02")
    _wait_for(process.stderr, b"1000 steps")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert b"interrupted" in stderr
    assert b"Traceback" not in stderr
    assert list(home.iterdir()) == []


def test_a_second_signal_does_not_wait_for_the_step(home: Path) -> None:
    process = start("generate", "x", FAKE_STEP_SECONDS=LONG)
    _wait_for(process.stderr, b"a step has begun")
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None
    while process.poll() is None:  # a signal that arrives before the one ahead of it is handled does not count
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert list(home.iterdir()) == []


SIGNAL_WHILE_IMPORTING = """
import signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            signal.raise_signal(signal.{number})

sys.meta_path.insert(0, Finder())
from sensenova_cli.__main__ import main
sys.argv = ["sensenova", "generate", "x", "--size", "33x33"]
main()
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    "name", ["sensenova_cli.app", "typer", "sensenova_cli.system.streams", "sensenova_cli.inputs.prompts"]
)
def test_a_signal_during_imports(name: str, number: str) -> None:
    script = SIGNAL_WHILE_IMPORTING.format(name=name, number=number)
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_signal_to_a_process_that_is_loading(home: Path) -> None:
    process = start("generate", "x", FAKE_LOAD_SECONDS=LONG)
    _wait_for(process.stderr, b"loading")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert b"Traceback" not in stderr


def test_a_signal_stops_every_turn_that_runs(program: Program) -> None:
    """Two turns overlap, as on two threads, and the first one ends first."""
    first, second = SignalStop(), SignalStop()
    with ExitStack() as later:
        with first.listening(lambda: False):
            later.enter_context(second.listening(lambda: False))
        signal.raise_signal(signal.SIGINT)
        assert (first.requested, second.requested) == (False, True)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_signal_while_a_turn_is_recorded_does_not_end_the_program(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensenova_cli.system.interrupts.exit_now", lambda: pytest.fail("the record would be lost"))
    stop = SignalStop()
    with stop.listening(lambda: False):
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        with stop.shielding():
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("number", "after"), [(signal.SIGINT, 0.0), (signal.SIGTERM, 0.05), (signal.SIGHUP, 0.1), (signal.SIGINT, 0.3)]
)
def test_the_first_signal_of_a_start_ends_it(home: Path, number: signal.Signals, after: float) -> None:
    """A signal that arrives while the program starts is never swallowed, and shows no traceback of ours."""
    process = start("generate", "x", FAKE_LOAD_SECONDS=LONG)
    wait_until_started(process)
    time.sleep(after)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert b"Traceback" not in stderr


SIGNAL_IN_A_LAZY_IMPORT = """
import signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            try:
                signal.raise_signal(signal.SIGINT)
            except BaseException:  # as modules in C do
                pass

sys.meta_path.insert(0, Finder())
from sensenova_cli.__main__ import main
sys.argv = ["sensenova", "generate", "x", "--size", "33x33"]
main()
"""


@pytest.mark.parametrize("name", ["sensenova_cli.inputs.prompts", "config.sources"])
def test_an_import_cannot_swallow_a_signal(name: str) -> None:
    script = SIGNAL_IN_A_LAZY_IMPORT.format(name=name)
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


SIGNAL_THAT_IS_SWALLOWED = """
import signal, sys
from sensenova_cli.__main__ import main
from sensenova_cli.sessions import store

def swallow():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:  # as destructors do
        return []

store.finish_removals = swallow
sys.argv = ["sensenova", "sessions", "list"]
main()
"""


def test_a_swallowed_signal_shows_in_the_exit_code(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGNAL_THAT_IS_SWALLOWED], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 130 and done.stderr.endswith("interrupted\n")


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_that_was_ignored_on_purpose_stays_ignored(home: Path, number: str) -> None:
    """A script's `command &` ignores Ctrl-C, and nohup ignores SIGHUP."""
    words = [sys.executable, "-m", "tests.cli.fake_program", "generate", "x", "-o", "a.png"]
    code = f"import os, signal; signal.signal(signal.{number}, signal.SIG_IGN); os.execv({words[0]!r}, {words!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "FAKE_STEP_SECONDS": "0.1"},
    )
    _wait_for(process.stderr, b"4 steps")
    process.send_signal(getattr(signal, number))
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert [path.name for path in home.iterdir()] == ["a.png"]


SIGNAL_AT_THE_END = """
import atexit, os, signal, sys, types
from sensenova_cli import __main__ as program

sys.modules["torch"] = types.ModuleType("torch")  # after a picture, the interpreter shuts down
tune_interpreter = program.tune_interpreter

def signal_at_the_end():
    os.write(1, b"at the end\\n")
    signal.raise_signal(signal.{number})

def tune():
    tune_interpreter()
    atexit.register(signal_at_the_end)  # after the program's own function, so it is called before

program.tune_interpreter = tune
sys.argv = ["sensenova", "profile", "path"]
program.main()
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_in_the_last_second_is_quiet(number: str) -> None:
    script = SIGNAL_AT_THE_END.format(number=number)
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.endswith("at the end\n")


def test_a_signal_after_the_last_result_is_ignored(
    program: Program, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sensenova_cli.turns.one_shot._show_timings", lambda view, flags: signal.raise_signal(signal.SIGINT)
    )
    assert program("generate", "x", "-o", "a.png").code == 0


def test_a_swallowed_signal_stops_the_next_turn(program: Program, home: Path) -> None:
    def prepare(engine: FakeEngine) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    program.prepare = prepare  # type: ignore[assignment]
    assert program("generate", "x", "-o", "a.png").code == 130
    assert list(home.iterdir()) == []


@pytest.mark.slow
def test_a_signal_while_a_cpu_reads_a_long_prompt(home: Path) -> None:
    """The prompt takes minutes; one signal ends the command between two chunks of it."""
    (home / "long.txt").write_text("red circle and blue square " * 7500)
    with (home / "long.txt").open("rb") as stdin:
        process = subprocess.Popen(
            [sys.executable, "-m", "sensenova_cli", "chat", "--model", "demo", "--dtype", "float32", "-"],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
    _wait_for(process.stderr, b"loaded in")
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, b"") and b"interrupted" in stderr
