"""`sensenova chat`: one message, one answer."""

import json
from pathlib import Path

from PIL import Image

from tests.cli.harness import Program


def test_a_message_and_its_answer(program: Program) -> None:
    outcome = program("chat", "Hello")
    assert (outcome.code, outcome.stdout) == (0, "It is a cat.\n")
    assert (program.request.prompt, program.request.system, program.request.images) == ("Hello", "", ())


def test_message_from_standard_input_with_a_system_message(program: Program) -> None:
    program("chat", "-", "--system", "Be short.", stdin="Hello\nyou\n")
    assert (program.request.prompt, program.request.system) == ("Hello\nyou", "Be short.")


def test_a_piped_message(program: Program) -> None:
    assert program("chat", stdin="Hello\n").stdout == "It is a cat.\n"
    assert program.request.prompt == "Hello"
    outcome = program("chat", stdin="\n")
    assert outcome.code == 2 and "there is no message" in outcome.stderr


def test_about_a_picture(program: Program, home: Path) -> None:
    Image.new("RGB", (96, 64)).save(home / "a.png")
    program("chat", "--image", "a.png", "What is it?")
    assert (program.request.prompt, program.request.images[0].size) == ("What is it?", (96, 64))


def test_json(program: Program) -> None:
    result = json.loads(program("chat", "Hello", "--json").stdout)
    assert (result["task"], result["prompt"], result["text"]) == ("chat", "Hello", "It is a cat.")
    assert (result["path"], result["images"]) == (None, [])


def test_an_answer_that_ends_its_line_gets_no_empty_one(program: Program) -> None:
    program.prepare = lambda engine: setattr(engine, "answer", ["Yes.", "\n"])
    assert program("chat", "Hello").stdout == "Yes.\n"


def test_picture_options_are_not_offered(program: Program) -> None:
    outcome = program("chat", "Hello", "--num-steps", "3")
    assert outcome.code == 2
    assert "no such option: --num-steps" in outcome.stderr
