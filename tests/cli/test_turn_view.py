"""Answers as they stream to a terminal: the model's words, and none of its control characters."""

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
    # The last token comes with the answer only, as the bytes of a character that was cut off do.
    events[-1] = Answer("".join(TOKENS), tuple(range(len(TOKENS))), "end")
    renderer = TurnView(quiet=True, stream_answers=True, show_think=False)
    with renderer.showing(AnswerRequest("Which animal?")):
        for event in events:
            renderer.event(event)
    return stdout.getvalue()


def test_control_characters_stay_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert streamed(Terminal(), monkeypatch) == "A [2Jcat31m, 红\n\tpurring.\n"


def test_a_pipe_gets_the_answer_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert streamed(io.StringIO(), monkeypatch) == "".join(TOKENS) + "\n"
