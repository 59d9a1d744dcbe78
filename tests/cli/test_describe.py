"""`sensenova describe`: questions about pictures, answers on stdout."""

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from config.settings import TextSettings
from model import Statistics
from sensenova_cli.render.turn_summary import turn_summary
from tests.cli.harness import Program


@pytest.fixture(autouse=True)
def pictures(home: Path) -> None:
    Image.new("RGB", (96, 64), "red").save(home / "a.png")
    Image.new("RGB", (64, 64), "blue").save(home / "b.png")


def test_the_answer_is_all_there_is_on_stdout(program: Program) -> None:
    outcome = program("describe", "a.png")
    assert (outcome.code, outcome.stdout) == (0, "It is a cat.\n")
    assert outcome.stderr.splitlines()[-1] == "0.6 s · 4 tokens, 8.00 tok/s · peak memory 1.4 GiB on cpu"


def test_without_a_question_a_description_is_asked_for(program: Program) -> None:
    program("describe", "a.png")
    assert program.request.prompt == "Describe this image in detail."


@pytest.mark.parametrize("flag", ["-p", "--prompt"])
def test_a_question_about_several_pictures(program: Program, flag: str) -> None:
    program("describe", "a.png", "b.png", flag, "What changed?")
    assert program.request.prompt == "What changed?"
    assert [image.size for image in program.request.images] == [(96, 64), (64, 64)]


def test_pictures_may_follow_the_flag_too(program: Program) -> None:
    program("describe", "--image", "a.png", "b.png")
    assert len(program.request.images) == 2


def test_text_options_reach_the_engine(program: Program) -> None:
    words = "--max-tokens 3 --do-sample --temperature 0.5 --top-p 0.9 --top-k 5 --repetition-penalty 1.1 --seed 8"
    program("describe", "a.png", *words.split())
    assert program.request.settings.model_dump() == {
        "max_tokens": 3,
        "do_sample": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "repetition_penalty": 1.1,
        "max_images": 10,
        "seed": 8,
    }


def test_json_carries_text_and_token_ids_and_does_not_stream(program: Program) -> None:
    result = json.loads(program("describe", "a.png", "--json").stdout)
    assert (result["path"], result["images"]) == ("a.png", ["a.png"])
    assert (result["text"], result["token_ids"], result["finish"]) == ("It is a cat.", [1, 2, 3, 4], "end")
    assert result["settings"].keys() == TextSettings.model_fields.keys() - {"max_images"}


def test_a_cut_off_answer_is_told(program: Program) -> None:
    outcome = program("describe", "a.png", "--max-tokens", "2")
    assert outcome.stdout == "It is \n"
    assert "--max-tokens" in outcome.stderr


def test_a_picture_from_standard_input(program: Program) -> None:
    buffer = BytesIO()
    Image.new("RGB", (128, 64)).save(buffer, "PNG")
    assert program("describe", "-", stdin=buffer.getvalue()).code == 0
    assert program.request.images[0].size == (128, 64)


def test_no_picture_is_an_error(program: Program) -> None:
    outcome = program("describe")
    assert outcome.code == 2
    assert "error: there is no picture to describe" in outcome.stderr


def test_the_summary_says_how_many_tokens_a_pass_gave() -> None:
    """Only where weights are loaded in each pass."""
    statistics = Statistics(10, 9, 0, 0.5, 0.0, 0.6, 0, "cpu", text_passes=4)
    assert turn_summary(statistics) == "0.6 s · 9 tokens, 18.00 tok/s · 2.2 tokens a pass · on cpu"
    assert turn_summary(replace(statistics, text_passes=0)) == "0.6 s · 9 tokens, 18.00 tok/s · on cpu"
