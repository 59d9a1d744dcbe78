"""`--negative`: from each place where settings are written, into the request and the picture's record."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sensenova_cli.outputs.picture_files import read_record
from tests.cli.harness import Program


def test_a_picture_records_its_negative_words(program: Program, home: Path) -> None:
    assert program("generate", "a cat", "--negative", "dogs, blurry", "-o", "cat.png").code == 0
    assert program.request.settings.negative == "dogs, blurry"
    with Image.open("cat.png") as image:
        assert "a cat\nNegative prompt: dogs, blurry\nSteps: " in image.info["parameters"]
        assert json.loads(image.info["sensenova"])["settings"]["negative"] == "dogs, blurry"
    assert "dogs, blurry" in program("info", "cat.png").stdout
    program("generate", "--from", "cat.png", "-o", "again.png")
    assert program.request.settings.negative == "dogs, blurry"
    assert Path("again.png").read_bytes() == Path("cat.png").read_bytes()
    program("generate", "--from", "cat.png", "--negative", "", "-o", "without.png")
    assert program.request.settings.negative == ""


def test_a_picture_without_them_is_as_before_there_were_any(program: Program, home: Path) -> None:
    program("generate", "a cat", "-o", "cat.png")
    with Image.open("cat.png") as image:
        assert "negative" not in json.loads(image.info["sensenova"])["settings"]
        assert "Negative" not in image.info["parameters"]
    Path("sensenova.toml").write_text('negative = "dogs"\n')
    program("generate", "--from", "cat.png", "-o", "again.png")
    assert program.request.settings.negative == "", "a replay does not take the words of another layer"
    record = read_record(Path("cat.png"))
    assert record is not None and record.settings.negative == ""


def test_files_and_variables(program: Program, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("prompts.jsonl").write_text('{"prompt": "a cat", "negative": "dogs"}\n{"prompt": "a kite"}\n')
    monkeypatch.setenv("SENSENOVA_NEGATIVE", "rain")
    assert program("generate", "--prompt-file", "prompts.jsonl").code == 0
    assert [request.settings.negative for request in program.engines[-1].requests] == ["dogs", "rain"]
    Path("wrong.jsonl").write_text('{"prompt": "a cat", "negative_prompt": "dogs"}\n')
    outcome = program("generate", "--prompt-file", "wrong.jsonl")
    assert outcome.code == 2 and 'wrong.jsonl:1: unknown setting "negative_prompt"' in outcome.stderr
    assert 'did you mean "negative"?' in outcome.stderr


def test_the_name_of_other_programs(program: Program) -> None:
    program("edit", "--image", "in.png", "make it red", "--negative-prompt", "dogs")
    Image.new("RGB", (64, 64)).save("in.png")
    program("edit", "--image", "in.png", "make it red", "--negative-prompt", "dogs")
    assert program.request.settings.negative == "dogs"


def test_wrong_words(program: Program) -> None:
    outcome = program("generate", "a cat", "--negative", "a <image> of a dog")
    assert outcome.code == 2 and "the negative prompt contains <image>" in outcome.stderr and not program.engines
