"""Streamed answers: a terminal never receives control characters of the model."""

import io

import pytest

from model.events import Answer, Event, TextToken
from model.requests import AnswerRequest
from sensenova_cli.render.turn_view import TurnView

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
