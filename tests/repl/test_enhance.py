"""Prompts that a model rewrites, in sessions."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.requests import AnswerRequest, EditRequest, GenerateRequest
from sensenova_cli.enhance.cache import FILE
from tests.cli.fake_endpoint import FakeEndpoint, fake_endpoint
from tests.repl.script import Script
from tests.repl.terminal import Terminal
from tests.repl.test_turns import session_file

REWRITTEN = "It is a cat."
"""The fake engine's answer to everything."""


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with fake_endpoint() as fake:
        yield fake


def test_prompts_of_a_session(script: Script) -> None:
    outcome = script("/enhance on", "a cat", "/again", "/enhance off", "/generate a dog", "/enhance a kite --seed 7")
    assert outcome.code == 0, outcome.stderr
    kinds = [type(request) for request in script.requests]
    assert kinds == [AnswerRequest, GenerateRequest, GenerateRequest, GenerateRequest, AnswerRequest, EditRequest]
    _, first, again, dog, *_ = script.requests
    assert isinstance(first, GenerateRequest) and isinstance(again, GenerateRequest)
    assert isinstance(dog, GenerateRequest)
    assert (first.prompt, again.prompt, dog.prompt) == (REWRITTEN, REWRITTEN, "a dog")
    assert again.settings.seed == first.settings.seed + 1
    turns = [entry for entry in session_file() if "turn" in entry]
    assert [turn["original_prompt"] for turn in turns] == ["a cat", "a cat", None, "a kite"]
    assert turns[0]["enhanced_by"] == "checkpoint" and turns[2]["enhanced_by"] is None
    assert f"new prompt: {REWRITTEN}" in outcome.stderr
    assert "001-a-cat-42.png" in outcome.stdout, "pictures are named by the user's words"


def test_earlier_replies_are_removed(script: Script, data: Path) -> None:
    script("/enhance a cat")
    assert (data / FILE).exists()
    outcome = script("/enhance forget", "/enhance on --seed 7")
    assert "removed 1 rewritten prompt\n" in outcome.stderr and not (data / FILE).exists()
    assert "/enhance on, off and forget take no options" in outcome.stderr


def test_a_failure_does_not_end_the_session(script: Script, endpoint: FakeEndpoint) -> None:
    endpoint.status, endpoint.body = 500, b"{}"
    outcome = script(
        f"/set enhance_with {endpoint.url}", "/enhance a cat", "a dog", "/set enhance_model ''", "/set enhance_with x"
    )
    assert "the prompt was not rewritten: the server at" in outcome.stderr
    assert "draw your own words: /set enhance false" in outcome.stderr
    assert [request.prompt for request in script.requests if isinstance(request, GenerateRequest)] == ["a dog"]
    assert '/set enhance_model "": must not be empty' in outcome.stderr
    assert "/set enhance_with x: must be an http or https address" in outcome.stderr


def test_a_saved_session_chooses_no_endpoint(script: Script, endpoint: FakeEndpoint, data: Path) -> None:
    """A stranger could have made it, and would get the user's prompts and key."""
    script("a cat", f"/set enhance_with {endpoint.url}", "/enhance on")
    (file,) = data.glob("sessions/*/session.jsonl")
    lines = file.read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    for entry in entries:
        if "turn" in entry:
            entry["typed"] = {"enhance": True, "enhance_with": endpoint.url}
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    outcome = script("/again", "/generate a dog", options=("--continue",))
    assert f"because another person may have made it: enhance_with {endpoint.url}" in outcome.stderr.replace("\n", " ")
    assert endpoint.requests == []


@pytest.mark.slow
def test_the_new_prompt_is_edited_before_it_is_drawn(tmp_path: Path, endpoint: FakeEndpoint) -> None:
    screen = Terminal(
        "repl", "--num-steps", "2", "--no-preview", "--enhance-with", endpoint.url,
        folder=tmp_path, module="tests.cli.fake_program", HOME=str(tmp_path), FAKE_STEP_SECONDS="0.02",
    )  # fmt: skip
    screen.wait_for_toolbar("draw")
    screen.type("a cat")
    screen.wait_for("new prompt › A cute cat with green eyes.")
    screen.wait_for("Ctrl-C draws nothing")
    screen.type(" It sits.")
    screen.wait_for("picture 1  ")
    screen.wait_for_toolbar("selected 1")
    screen.type("/generate a cat")
    screen.wait_for("new prompt › A cute cat with green eyes.", count=2)
    screen.child.sendintr()
    screen.wait_for("interrupted")
    screen.wait_for_toolbar("selected 1")
    screen.type("/generate a cat")
    screen.wait_for("new prompt › A cute cat with green eyes.", count=3)
    screen.child.send("\x01\x0b\r")  # to the beginning of the line, delete the rest, Enter
    screen.wait_for("picture 2  ")
    screen.type("/quit")
    assert screen.end() == 0
    (file,) = tmp_path.glob("data/sessions/*/session.jsonl")
    turns = [entry for line in file.read_text().splitlines() if "turn" in (entry := json.loads(line))]
    assert [turn["prompt"] for turn in turns] == ["A cute cat with green eyes. It sits.", "a cat"]
    assert [turn["original_prompt"] for turn in turns] == ["a cat", "a cat"]
    assert len(endpoint.requests) == 1
