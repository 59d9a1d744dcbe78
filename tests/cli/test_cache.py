"""`--cache` and what is told of it."""

import json
from pathlib import Path

import pytest

from tests.cli.harness import Program

TABLE = """\
  branch          computed   reused   least    25 %   median    75 %    most
 ────────────────────────────────────────────────────────────────────────────
  condition              3        5   0.100   0.200    0.300   0.400   0.500
  unconditional          8        0       –       –        –       –       –

50 % of the layers computed, in 3.0 s; about 2.5 s saved"""


def lines(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize(
    ("words", "preset"),
    [
        ("", "off"),
        ("--cache fast", "fast"),
        ("--cache off", "off"),
        ("--no-cache", "off"),
        ("--cache-backend cache_dit", "balanced"),
        ("--cache-backend cache_dit --cache careful", "careful"),
        ("--cache-backend off", "off"),
    ],
)
def test_the_preset_reaches_the_engine(program: Program, words: str, preset: str) -> None:
    assert program("generate", "x", *words.split()).code == 0
    assert program.request.settings.cache == preset


def test_a_profile_may_say_all_of_it_and_a_flag_takes_it_back(program: Program, home: Path) -> None:
    (home / "mine.toml").write_text('cache = "fast"\ncache_threshold = 0.3\ncache_last_layers = 2\n')
    program("generate", "x", "--profile", "./mine.toml", "--cache-longest-run", "5", "--cache-taylor-order", "1")
    settings = program.request.settings
    assert (settings.cache, settings.cache_threshold, settings.cache_last_layers) == ("fast", 0.3, 2)
    assert (settings.cache_longest_run, settings.cache_taylor_order, settings.cache_warmup_steps) == (5, 1, None)
    program("generate", "x", "--profile", "./mine.toml", "--no-cache")
    assert program.request.settings.cache == "off"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--cache fats", "--cache fats: must be off, careful, balanced or fast\nhint: did you mean --cache fast?"),
        ("--cache-backend zip", "--cache-backend zip is unknown\nhint: it is cache_dit or off"),
        ("--cache-backend cache_dit --no-cache", "--cache-backend cache_dit and --cache off contradict each other"),
        ("--cache-backend off --cache fast", "--cache-backend off and --cache fast contradict each other"),
        ("--cache fast --cache-threshold 0", "--cache-threshold 0: must be a number above 0 and at most 1"),
        ("--cache fast --cache-first-layers 0", "--cache-first-layers 0: must be a whole number from 1"),
        ("--cache fast --cache-taylor-order 9", "--cache-taylor-order 9: must be a whole number from 0 to 4"),
        ("--cache fast --cache-warmup-steps two", "--cache-warmup-steps two: must be a whole number from 1"),
    ],
)
def test_what_cannot_be_is_refused_before_the_model_loads(program: Program, words: str, message: str) -> None:
    outcome = program("generate", "x", *words.split())
    assert (outcome.code, outcome.stdout) == (2, "")
    assert message in outcome.stderr
    assert program.engines == []


def test_the_extra_is_named_before_the_model_loads(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = program("generate", "x", "--cache", "balanced")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "cache-dit, which is not installed" in outcome.stderr
    assert "pip install '.[cache]'" in outcome.stderr
    assert program.engines == []


def test_the_summary_comes_after_each_picture_on_stderr(program: Program) -> None:
    outcome = program("generate", "x", "--cache", "fast", "--enable-cache-dit-summary", "-n", "2", "-o", "{seed}.png")
    assert outcome.stdout == "42.png\n43.png\n"
    assert lines(outcome.stderr).count(TABLE) == 2


@pytest.mark.parametrize("words", [("--cache", "fast"), ("--cache", "fast", "--enable-cache-dit-summary", "-q")])
def test_nobody_is_told_who_did_not_ask(program: Program, words: tuple[str, ...]) -> None:
    assert "layers computed" not in program("generate", "x", *words).stderr


def test_a_summary_without_a_cache_says_so_once(program: Program) -> None:
    outcome = program("generate", "x", "--enable-cache-dit-summary", "-n", "2")
    assert outcome.code == 0
    assert outcome.stderr.count("no cache summary: --cache is off") == 1


def test_the_same_as_json(program: Program) -> None:
    outcome = program("generate", "x", "--cache", "fast", "--json", "--enable-cache-dit-summary")
    told = json.loads(outcome.stdout)["cache"]
    assert told["branches"]["condition"]["reused_steps"] == 5
    assert told["branches"]["condition"]["difference_quartiles"] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert told["branches"]["unconditional"]["differences"] == []
    assert (told["layers_computed"], told["layers"], told["seconds_saved"]) == (60, 120, 2.5)
    assert json.loads(program("generate", "x", "--json").stdout)["cache"] is None


def test_a_picture_remembers_its_cache(program: Program) -> None:
    program("generate", "x", "--cache", "fast", "--cache-threshold", "0.3", "-o", "x.png")
    assert "cache: fast" in program("info", "x.png").stdout
    program("generate", "--from", "x.png", "-o", "again.png")
    assert (program.request.settings.cache, program.request.settings.cache_threshold) == ("fast", 0.3)
