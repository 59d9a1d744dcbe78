"""Progress in a terminal's tab, and the bell or the notification after a long run."""

import io
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from config.settings import NotifyChoice
from sensenova_cli.render.run_signals import BELL, CLEAR, LONG_SECONDS, RunSignals, announcement, takes_progress
from sensenova_cli.system import first_signals
from tests.cli.harness import REPOSITORY
from tests.waiting import PATIENCE

UNKNOWN = "\x1b]9;4;3;0\a"
GHOSTTY = {"TERM": "xterm-ghostty", "TERM_PROGRAM": "ghostty"}
CLEARED = dict.fromkeys(("TMUX", "STY", "ZELLIJ", "VTE_VERSION", "KONSOLE_VERSION", "WT_SESSION", "ConEmuANSI"), "")


# Which terminals


@pytest.mark.parametrize(
    "environment",
    [
        GHOSTTY,
        {"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app", "TERM_PROGRAM_VERSION": "3.6.6"},
        {"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app", "TERM_PROGRAM_VERSION": "3.10.0beta1"},
        {"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"},
        {"TERM": "xterm-256color", "VTE_VERSION": "8002"},
        {"TERM": "xterm-256color", "KONSOLE_VERSION": "250403"},
        {"TERM": "xterm-256color", "WT_SESSION": "1"},
        {"TERM": "xterm", "ConEmuANSI": "ON"},
    ],
)
def test_terminals_that_show_progress(environment: dict[str, str]) -> None:
    assert takes_progress(environment)
    assert not takes_progress({**environment, "TMUX": "/tmp/tmux"}), "the sequence would not reach the terminal"
    assert not takes_progress({**environment, "TERM": "screen-256color"})


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"TERM": "xterm-256color"},
        {"TERM": "linux"},
        {"TERM": "xterm-kitty", "KITTY_WINDOW_ID": "1"},
        {"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"},
        {"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app", "TERM_PROGRAM_VERSION": "3.5.11"},
        {"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"},
        {"TERM": "xterm-256color", "VTE_VERSION": "7603", "WT_SESSION": "1"},
        {"TERM": "alacritty", "WT_SESSION": "1"},
    ],
)
def test_other_terminals(environment: dict[str, str]) -> None:
    assert not takes_progress(environment)


@pytest.mark.parametrize(
    ("environment", "sequence"),
    [
        ({"TERM": "xterm-256color"}, BELL),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "\x1b]9;sensenova: done in 40 s\a"),
        (GHOSTTY, "\x1b]9;sensenova: done in 40 s\a"),
        ({"TERM": "xterm-kitty"}, "\x1b]9;sensenova: done in 40 s\a"),
        ({"TERM": "foot"}, "\x1b]777;notify;sensenova;done in 40 s\a"),
        ({"TERM": "xterm-256color", "VTE_VERSION": "7603"}, "\x1b]777;notify;sensenova;done in 40 s\a" + BELL),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, BELL),
        ({**GHOSTTY, "TMUX": "/tmp/tmux"}, BELL),
    ],
)
def test_notifications(environment: dict[str, str], sequence: str) -> None:
    assert announcement("desktop", "done in 40 s", environment) == sequence
    assert announcement("bell", "done in 40 s", environment) == BELL


# Runs


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


class Run:
    """Signals on a terminal, with a clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, notify: NotifyChoice, **options: bool) -> None:
        self.screen = Screen()
        monkeypatch.setattr("sys.stderr", self.screen)
        self.seconds = 0.0
        self.signals = RunSignals(notify, **{"shows_progress": True, **options}, clock=lambda: self.seconds)


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {**CLEARED, **GHOSTTY}.items():
        monkeypatch.setenv(name, value)
    yield
    assert first_signals.farewell == b""


def test_progress_is_shown_and_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, "off")
    run.signals.progress(1, 2)
    assert run.screen.getvalue() == "", "nothing is running"
    with run.signals.run():
        for done in (0, 1, 1, 2, 8):
            run.signals.progress(done, 8)
        assert first_signals.farewell == CLEAR.encode()
    shown = [f"\x1b]9;4;1;{percent}\a" for percent in (0, 12, 25, 100)]
    assert run.screen.getvalue() == UNKNOWN + "".join(shown) + CLEAR


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_progress_is_cleared_after_errors(monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
    run = Run(monkeypatch, "off")
    with pytest.raises(error), run.signals.run():
        raise error
    assert run.screen.getvalue() == UNKNOWN + CLEAR


@pytest.mark.parametrize(
    ("notify", "error", "sequence"),
    [
        ("bell", None, BELL),
        ("desktop", None, "\x1b]9;sensenova: done in 30 s\a"),
        ("desktop", ValueError, "\x1b]9;sensenova: failed after 30 s\a"),
        ("bell", KeyboardInterrupt, ""),
        ("off", None, ""),
    ],
)
def test_the_end_of_a_long_run_is_announced(
    monkeypatch: pytest.MonkeyPatch, notify: NotifyChoice, error: type[BaseException] | None, sequence: str
) -> None:
    for seconds in (LONG_SECONDS, LONG_SECONDS - 0.1):
        run = Run(monkeypatch, notify, shows_progress=False)
        try:
            with run.signals.run():
                run.seconds = seconds
                if error is not None:
                    raise error
        except (ValueError, KeyboardInterrupt):
            pass
        assert run.screen.getvalue() == (sequence if seconds == LONG_SECONDS else "")


def test_nothing_is_written_to_a_pipe_or_a_dumb_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(run: Run) -> bool:
        with run.signals.run():
            run.seconds = 99
            run.signals.progress(1, 2)
        return run.screen.getvalue() == ""

    monkeypatch.setattr(Screen, "isatty", lambda screen: False)
    assert silent(Run(monkeypatch, "desktop"))
    monkeypatch.undo()
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("TERM_PROGRAM", "ghostty")
    assert silent(Run(monkeypatch, "desktop"))


# The whole program


def started(home: Path, *words: str, **environment: str) -> "pexpect.spawn[str]":
    return pexpect.spawn(
        sys.executable,
        ["-m", "tests.cli.fake_program", *words],
        cwd=str(home),
        env={**os.environ, **CLEARED, **GHOSTTY, "PYTHONPATH": str(REPOSITORY), **environment},
        timeout=PATIENCE,
        encoding="utf-8",
    )


def percents(written: str) -> list[tuple[str, str]]:
    return re.findall("\x1b\\]9;4;(\\d);(\\d+)\a", written)


def test_a_run_of_several_pictures(home: Path) -> None:
    child = started(home, "generate", "a cat", "a dog", "-n", "2", "--steps", "2", "--no-preview")
    written = child.read()
    shown = [int(percent) for state, percent in percents(written) if state == "1"]
    assert shown == sorted(shown) and {12, 50, 100} <= set(shown)
    assert percents(written)[0] == ("3", "0") and percents(written)[-1] == ("0", "0")
    assert CLEAR not in started(home, "generate", "a cat", "-f", "-q").read()
    assert CLEAR not in started(home, "generate", "a cat", "-f", TERM_PROGRAM="Apple_Terminal").read()


@pytest.mark.parametrize("signals", [1, 2])
def test_an_interrupted_run_leaves_no_progress(home: Path, signals: int) -> None:
    """The second Ctrl-C ends the program without any cleanup."""
    child = started(home, "generate", "a cat", "--no-preview", FAKE_STEP_SECONDS="1.5")
    child.expect("a step has begun")
    before = child.before or ""
    assert percents(before)
    child.kill(signal.SIGINT)
    child.expect("stopping after this step")
    if signals == 2:
        child.kill(signal.SIGINT)
    assert percents(child.read())[-1] == ("0", "0")
