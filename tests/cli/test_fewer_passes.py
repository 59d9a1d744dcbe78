"""`--cfg-every`, `--cfg-stop` and `--half-size-until`: from flags and profiles into requests and pictures' records."""

import json
from pathlib import Path

from PIL import Image

from sensenova_cli.outputs.picture_files import read_record
from tests.cli.harness import Program

FLAGS = ("--cfg-every", "2", "--cfg-stop", "0.1", "--half-size-until", "0.3")
NAMES = {"cfg_every": 2, "cfg_stop": 0.1, "half_size_until": 0.3}


def test_a_picture_records_the_settings_and_a_replay_has_them(program: Program, home: Path) -> None:
    assert program("generate", "a cat", *FLAGS, "--size", "128x64", "-o", "cat.png").code == 0
    assert {name: getattr(program.request.settings, name) for name in NAMES} == NAMES
    with Image.open("cat.png") as image:
        recorded = json.loads(image.info["sensenova"])["settings"]
    assert {name: recorded[name] for name in NAMES} == NAMES
    program("generate", "--from", "cat.png", "-o", "again.png")
    assert {name: getattr(program.request.settings, name) for name in NAMES} == NAMES
    assert Path("again.png").read_bytes() == Path("cat.png").read_bytes()


def test_a_record_of_a_full_run_has_none_of_them(program: Program, home: Path) -> None:
    program("generate", "a cat", "-o", "cat.png")
    with Image.open("cat.png") as image:
        assert not set(NAMES) & set(json.loads(image.info["sensenova"])["settings"])
    Path("sensenova.toml").write_text("cfg_every = 3\ncfg_stop = 0.2\n")
    program("generate", "--from", "cat.png", "-o", "again.png")
    assert (program.request.settings.cfg_every, program.request.settings.cfg_stop) == (1, 0.0)
    record = read_record(Path("cat.png"))
    assert record is not None and record.settings.half_size_until == 0


def test_profiles(program: Program) -> None:
    program("generate", "x", "--profile", "fewer-passes")
    assert (program.request.settings.cfg_every, program.request.settings.cfg_stop) == (2, 0.05)
    program("generate", "x", "--profile", "ladder", "--size", "128x128")
    assert program.request.settings.half_size_until == 0.5


def test_a_size_without_a_half_is_refused_before_a_model_loads(program: Program) -> None:
    outcome = program("generate", "x", "--half-size-until", "0.5", "--size", "96x64")
    assert outcome.code == 2 and not program.engines
    message = " ".join(outcome.stderr.split())
    assert "--half-size-until: a picture of 96x64 has no draft of half its size" in message
    assert "use --size 64x64 or --half-size-until 0" in message


def test_a_draft_with_a_step_cache_is_refused_before_a_model_loads(program: Program) -> None:
    words = ("--half-size-until", "0.5", "--size", "128x64", "--cache", "fast")
    outcome = program("generate", "x", *words)
    assert outcome.code == 2 and not program.engines
    assert "--half-size-until 0.5 does not work with --cache fast" in " ".join(outcome.stderr.split())
