"""`--dry-run`: what it prints, and that nothing happens. Estimates from earlier runs on this machine."""

import json
from pathlib import Path

import pytest
from PIL import Image

from config.settings import LoadSettings, Settings
from sensenova_cli.render.dry_run import Estimate, rough_seconds
from sensenova_cli.turns.measurements import FILE, Measured, keep_measurement, read_measurements, speed_key
from tests.cli.harness import Outcome, Program

SMALL = ("--size", "32x32", "--steps", "2")


def plan(outcome: Outcome) -> dict[str, object]:
    assert outcome.code == 0
    made: dict[str, object] = json.loads(outcome.stdout)
    return made


def lines(outcome: Outcome) -> list[str]:
    """Return the lines of a plan, with one space between words."""
    return [" ".join(line.split()) for line in outcome.stdout.splitlines()]


def test_the_plan_of_pictures(program: Program, home: Path) -> None:
    outcome = program("generate", "a {red|blue} cat", "--seed", "1,2", "-o", "out/", *SMALL, "--dry-run")
    assert (outcome.code, outcome.stderr) == (0, "")
    shown = lines(outcome)
    assert shown[0] == "would make 4 pictures"
    assert "settings size 32x32 (flag --size), num_steps 2 (flag --num-steps)" in shown
    assert shown[-4:] == [
        "out/a-red-cat-1.png seed 1 a red cat",
        "out/a-red-cat-2.png seed 2 a red cat",
        "out/a-blue-cat-1.png seed 1 a blue cat",
        "out/a-blue-cat-2.png seed 2 a blue cat",
    ]
    assert program.engines == [] and list(home.iterdir()) == []


def test_the_plan_as_json_names_the_files_that_the_run_writes(program: Program, home: Path) -> None:
    run = ("generate", "a cat", "a cat", "-n", "2", *SMALL)
    made = plan(program(*run, "--dry-run", "--json"))
    files = [file for item in made["items"] for file in item["files"]]  # type: ignore[attr-defined]
    assert program(*run).stdout.split() == files == [
        "a-cat-42.png", "a-cat-43.png", "a-cat-42-2.png", "a-cat-43-2.png"
    ]  # fmt: skip
    assert made["items"][0] == {  # type: ignore[index]
        "prompt": "a cat",
        "settings": {"seed": 42, "size": "32x32", "num_images": 2, "num_steps": 2},
        "origins": {
            "seed": "default", "size": "flag --size", "num_images": "flag --num-images", "num_steps": "flag --num-steps"
        },
        "files": ["a-cat-42.png", "a-cat-43.png"],
    }  # fmt: skip
    again = plan(program(*run, "--dry-run", "--json", "--skip-existing"))
    assert (again["items"], again["existing"]) == ([], 4)


def test_automatic_sizes_are_resolved(program: Program, home: Path) -> None:
    Image.new("RGB", (128, 64)).save(home / "wide.png")
    made = plan(program("edit", "wide.png", "make it blue", "--dry-run", "--json"))
    assert made["items"][0]["settings"]["size"] == "96x32"  # type: ignore[index]
    assert made["inputs"] == ["wide.png"]


def test_the_plan_of_answers(program: Program, home: Path) -> None:
    Image.new("RGB", (64, 64)).save(home / "a.png")
    assert lines(program("chat", "hello", "--dry-run"))[0] == "would make an answer"
    made = plan(program("describe", "a.png", "-p", "what?", "--max-tokens", "7", "--dry-run", "--json"))
    assert (made["task"], made["inputs"]) == ("describe", ["a.png"])
    assert made["items"][0]["settings"] == {"max_tokens": 7}  # type: ignore[index]
    made = plan(program("interleave", "a kite", "--max-images", "2", "--dry-run", "--json"))
    assert made["items"][0]["files"] == ["a-kite-42-0.png", "a-kite-43-1.png"]  # type: ignore[index]
    assert program.engines == []


def test_bad_input_is_refused_as_in_a_run(program: Program, home: Path) -> None:
    (home / "taken.png").touch()
    assert program("generate", "x", "-o", "taken.png", "--dry-run").code == 2
    assert program("generate", "x", "--steps", "0", "--dry-run").code == 2


def test_an_estimate_follows_from_an_earlier_run(program: Program, home: Path) -> None:
    run = ("generate", "a cat", "a dog", "--size", "64x64")
    before = plan(program(*run, "--dry-run", "--json"))["estimate"]
    assert before == {"seconds": None, "peak_bytes": None, "placement": None, "from_another_size": False}
    assert program(*run, "--steps", "4").code == 0
    # The fake engine reports 2 s for all steps of a picture, 3 s for the picture, and 1.5 GB.
    estimate = plan(program(*run, "--steps", "40", "--dry-run", "--json"))["estimate"]
    assert isinstance(estimate, dict)
    assert estimate["seconds"] == pytest.approx(2 * (40 * 2 / 4 + 1), abs=2)
    assert (estimate["peak_bytes"], estimate["placement"]) == (1_500_000_000, "bfloat16 on cpu")
    larger = plan(program("generate", "a cat", "--size", "96x64", "--steps", "40", "--dry-run", "--json"))["estimate"]
    assert isinstance(larger, dict)
    assert larger["seconds"] == pytest.approx(1.5 * 20 + 1, abs=2)
    assert (larger["peak_bytes"], larger["from_another_size"]) == (None, True)
    unknown = "time unknown until such a picture has been made here; to predict it: sensenova doctor"
    assert unknown in lines(program("generate", "a cat", "--size", "1024x1024", "--dry-run"))
    assert unknown in lines(program(*run, "--cfg-scale", "1", "--dry-run"))


def test_a_long_run_is_announced_and_a_short_one_is_not(program: Program, home: Path) -> None:
    assert "about" not in program("generate", "a cat", "--size", "64x64", "--steps", "4").stderr
    assert "about" not in program("generate", "a cat", "--size", "64x64", "--steps", "40").stderr
    outcome = program("generate", "a cat", "--seed", "1..50", "--size", "64x64", "--steps", "40")
    assert "about 3 min, peak 1.4 GiB\n" in outcome.stderr
    assert outcome.stderr.index("about 3 min") < outcome.stderr.index("loaded in")


def test_no_log_keeps_no_measurement(program: Program, home: Path) -> None:
    assert program("generate", "a cat", *SMALL, "--no-log").code == 0
    assert read_measurements() == []


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[1]", "null", '[{"key": "x"}]', "[" * 100_000),
        '[{"key": 1, "pixels": 4, "step_seconds": 1, "extra_seconds": 1, "load_seconds": 1, "peak": 1, '
        '"placement": ""}]',
    ],
)
def test_a_damaged_file_of_measurements_is_replaced(program: Program, tmp_path: Path, content: str) -> None:
    file = tmp_path / "data" / FILE
    file.parent.mkdir()
    file.write_text(content)
    assert program("generate", "a cat", "--dry-run").code == 0
    assert program("generate", "a cat", *SMALL).code == 0
    assert [each.pixels for each in read_measurements()] == [32 * 32]


def test_measurements_are_private_and_have_no_prompts(program: Program, tmp_path: Path) -> None:
    assert program("generate", "a secret cat", *SMALL).code == 0
    file = tmp_path / "data" / FILE
    assert file.stat().st_mode & 0o077 == 0
    assert "secret" not in file.read_text()


def test_a_new_measurement_replaces_an_old_one(program: Program) -> None:
    key = speed_key(Settings(), LoadSettings(), "generate")
    for seconds in (1.0, 2.0):
        keep_measurement(Measured(key, 64, seconds, 0.1, 3.0, 5, "bfloat16 on cpu"))
    keep_measurement(Measured(key, 128, 9.0, 0.1, 3.0, 5, "bfloat16 on cpu"))
    assert [(each.pixels, each.step_seconds) for each in read_measurements()] == [(128, 9.0), (64, 2.0)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.1, "1 s"), (45.4, "45 s"), (89, "89 s"), (840, "14 min"), (5000, "83 min"), (12_030, "3 h 20 min")],
)
def test_estimates_are_rough(seconds: float, text: str) -> None:
    assert rough_seconds(seconds) == text


def test_an_estimate_in_words() -> None:
    assert str(Estimate(840.0, 17 * 2**30)) == "about 14 min, peak 17.0 GiB"
    assert str(Estimate(840.0, None, is_scaled=True)) == "about 14 min (from pictures of another size)"


def test_a_folder_in_place_of_the_measurements_loses_no_picture(program: Program, tmp_path: Path) -> None:
    (tmp_path / "data" / FILE).mkdir(parents=True)
    outcome = program("generate", "a cat", *SMALL)
    assert (outcome.code, outcome.stdout) == (0, "a-cat-42.png\n")
