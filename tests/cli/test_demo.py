"""Where no model is configured the built-in demo is used, and says so."""

import json
from pathlib import Path

import pytest

from model.checkpoint.builtin import DEMO_CHECKPOINT
from tests.cli.harness import Program


@pytest.fixture(autouse=True)
def nothing_configured(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENSENOVA_MODEL")


def test_one_line_says_that_it_is_the_demo_and_how_to_get_the_real_one(program: Program) -> None:
    outcome = program("generate", "a cat", "-o", "cat.png")
    assert outcome.code == 0
    (line,) = [line for line in outcome.stderr.splitlines() if "demo" in line and "note:" in line]
    assert "--model SenseNova/SenseNova-U1-8B-MoT" in line
    assert "35 GB" in line
    assert outcome.stdout == "cat.png\n"
    assert program.engines[0].checkpoint == DEMO_CHECKPOINT


@pytest.mark.parametrize("words", [("describe", "cat.png"), ("chat", "hello"), ("edit", "x", "--image", "cat.png")])
def test_every_task_uses_it(program: Program, words: tuple[str, ...]) -> None:
    program("generate", "a cat", "-o", "cat.png")
    outcome = program(*words)
    assert outcome.code == 0
    assert "built-in demo" in outcome.stderr
    assert program.engines[-1].checkpoint == DEMO_CHECKPOINT


def test_its_recommended_settings_are_used(program: Program) -> None:
    program("generate", "a cat", "-o", "cat.png")
    recommended = json.loads((DEMO_CHECKPOINT / "recommended_settings.json").read_text())["settings"]
    assert program.request.settings.num_steps == recommended["num_steps"]
    assert program.request.settings.cfg_scale == recommended["cfg_scale"]
    shown = [line.split() for line in program("profile", "show").stdout.splitlines()]
    assert ["num_steps", str(recommended["num_steps"]), "checkpoint"] in shown


@pytest.mark.parametrize("words", [("-q",), ("--model", "demo")])
def test_the_line_is_for_those_who_did_not_ask_for_it(program: Program, words: tuple[str, ...]) -> None:
    outcome = program("generate", "a cat", "-o", "cat.png", *words)
    assert outcome.code == 0
    assert "no model is configured" not in outcome.stderr
    assert program.engines[0].checkpoint == DEMO_CHECKPOINT


def test_a_folder_of_that_name_is_another_model(program: Program, home: Path) -> None:
    (home / "demo").mkdir()
    (home / "demo" / "config.json").write_text("{}")
    program("generate", "a cat", "-o", "cat.png")
    assert program.engines[-1].checkpoint == DEMO_CHECKPOINT
    program("generate", "a cat", "-o", "other.png", "--model", "./demo")
    assert program.engines[-1].checkpoint == Path("demo")


def test_pictures_say_that_the_demo_made_them(program: Program, home: Path) -> None:
    (home / "demo").mkdir()  # of no importance
    program("generate", "a cat", "-o", "cat.png")
    assert json.loads(program("info", "--json", "cat.png").stdout)["model"] == "demo"
    assert program("generate", "--from", "cat.png", "-o", "again.png").code == 0
    assert (home / "again.png").read_bytes() == (home / "cat.png").read_bytes()
