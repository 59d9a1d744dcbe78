"""SIGTERM and SIGHUP end the prompt, also in the moment before it reads keys."""

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from sensenova_cli.repl import prompt
from sensenova_cli.system.first_signals import SIGNALS
from sensenova_cli.system.interrupts import clear_signals, handle_signals


@pytest.fixture(autouse=True)
def handled_signals() -> Iterator[None]:
    """Handle signals as the program does."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handle_signals()
    yield
    clear_signals()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_first_key_ends_the_prompt(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., AbstractContextManager[None]] = prompt.prompting

    @contextmanager
    def prompting(leave: Callable[[], None]) -> Iterator[None]:
        with real(leave):
            signal.raise_signal(number)
            yield

    monkeypatch.setattr(prompt, "prompting", prompting)
    monkeypatch.setattr(prompt, "data_folder", lambda: tmp_path)
    monkeypatch.setattr(prompt, "prompt_word", lambda repl: "draw")
    monkeypatch.setattr(prompt, "_toolbar", lambda repl: [("", "")])
    repl: Any = None
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        read_line = prompt.make_prompt(repl)
        keys.send_text("a cat\r")
        with pytest.raises(EOFError):
            read_line()
