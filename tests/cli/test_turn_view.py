"""Streamed answers: a terminal never receives control characters of the model."""

import io
import sys
import threading

import pytest

from model.events import Answer, Event, TextToken
from model.requests import AnswerRequest
from sensenova_cli.render.turn_view import MARKDOWN_MODULE, TurnView

TOKENS = ["A ", "\x1b", "[2Jcat\r", "\x9b31m, ", "\x07红\n", "\t\x08purring."]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def streamed(stdout: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("sys.stdout", stdout)
    events: list[Event] = [TextToken(number, text) for number, text in enumerate(TOKENS)]
    # Only the answer contains the last token, like the bytes of an incomplete character.
    events[-1] = Answer("".join(TOKENS), tuple(range(len(TOKENS))), "end")
    view = TurnView(quiet=True, stream_answers=True, show_think=False)
    with view.showing(AnswerRequest("Which animal?")):
        for event in events:
            view.event(event)
    return stdout.getvalue()


def test_control_characters_stay_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert streamed(Terminal(), monkeypatch) == "A [2Jcat31m, 红\n\tpurring.\n"


def test_a_pipe_gets_the_unchanged_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert streamed(io.StringIO(), monkeypatch) == "".join(TOKENS) + "\n"


@pytest.mark.parametrize(("stdout", "is_imported"), [(Terminal(), True), (io.StringIO(), False)])
def test_the_display_of_an_answer_is_imported_while_the_model_loads(
    stdout: io.StringIO, is_imported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", stdout)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr("sensenova_cli.render.turn_view.is_animated", lambda: True)
    monkeypatch.delitem(sys.modules, MARKDOWN_MODULE, raising=False)
    view = TurnView(quiet=True, stream_answers=True)
    view.prepare([AnswerRequest("Which animal?")])
    for thread in [each for each in threading.enumerate() if each.name == "import"]:
        thread.join()
    assert (MARKDOWN_MODULE in sys.modules) == is_imported
