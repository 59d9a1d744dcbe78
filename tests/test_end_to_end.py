"""The whole program on a tiny checkpoint: what is made again is the same, and what is stopped leaves nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sensenova_cli.app import app
from tests.cli.harness import REPOSITORY
from tests.waiting import PATIENCE


@pytest.fixture(autouse=True)
def home(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a checkpoint in it, and no settings from elsewhere."""
    for name in [name for name in os.environ if name.startswith("SENSENOVA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SENSENOVA_CONFIG_DIR", str(tmp_path / "settings"))
    (tmp_path / "tiny").symlink_to(tiny_checkpoint)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sensenova(*arguments: str) -> Result:
    result = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result


SMALL = ("--model", "tiny", "--size", "64x96", "--num-steps", "3")


def test_the_same_command_gives_the_same_bytes(home: Path) -> None:
    for name in ("first.png", "second.png"):
        sensenova("generate", "a cat", *SMALL, "--think", "--max-think-tokens", "5", "-o", name)
    assert (home / "first.png").read_bytes() == (home / "second.png").read_bytes()


def test_made_again_from_itself(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sensenova("generate", "a cat", *SMALL, "-n", "2", "--seed", "9", "--cfg-norm", "channel", "-o", "cat.png")
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    sensenova("generate", "--from", "../cat-1.png", "--trust-record", "-o", "again.png")
    assert (home / "elsewhere" / "again.png").read_bytes() == (home / "cat-1.png").read_bytes()


def test_a_cached_picture_made_again_from_itself(home: Path) -> None:
    cached = ("--num-steps", "9", "--cache-threshold", "0.5", "--cache-warmup-steps", "2")
    result = sensenova("generate", "a cat", *SMALL, *cached, "--cache", "fast", "-o", "cat.png", "--json")
    told = json.loads(result.stdout)["cache"]
    assert told["layers_computed"] < told["layers"]
    plain = sensenova("generate", "a cat", *SMALL, *cached, "-o", "plain.png")
    assert "cache_threshold, cache_warmup_steps: no effect while cache is off" in plain.stderr
    assert (home / "plain.png").read_bytes() != (home / "cat.png").read_bytes()
    sensenova("generate", "--from", "cat.png", "--trust-record", "-o", "again.png")
    assert (home / "again.png").read_bytes() == (home / "cat.png").read_bytes()


def test_an_edit_made_again_from_itself(home: Path) -> None:
    sensenova("generate", "a cat", *SMALL, "-o", "cat.png")
    edit = sensenova("edit", "paint it", "--image", "cat.png", *SMALL, "--img-cfg-scale", "2", "-o", "edit.png")
    assert "Using seed 43" in edit.stderr
    sensenova("edit", "--from", "edit.png", "--trust-record", "-o", "again.png")
    assert (home / "again.png").read_bytes() == (home / "edit.png").read_bytes()
    record = json.loads(sensenova("info", "--json", "edit.png").stdout)
    assert record["settings"]["seed"] == 43


def test_flags_override_what_the_picture_says(home: Path) -> None:
    sensenova("generate", "a cat", *SMALL, "-o", "cat.png")
    sensenova("generate", "--from", "cat.png", "--trust-record", "--seed", "1", "-o", "other.png")
    record = json.loads(sensenova("info", "--json", "other.png").stdout)
    assert (record["settings"]["seed"], record["settings"]["size"], record["prompt"]) == (1, "64x96", "a cat")
    assert (home / "other.png").read_bytes() != (home / "cat.png").read_bytes()


def test_describe_and_chat_answer_on_stdout(home: Path) -> None:
    sensenova("generate", "a cat", *SMALL, "-o", "cat.png")
    for command in (("describe", "cat.png"), ("chat", "hello")):
        plain = sensenova(*command, "--model", "tiny", "--max-tokens", "4").stdout
        answer = json.loads(sensenova(*command, "--model", "tiny", "--max-tokens", "4", "--json").stdout)
        assert len(answer["token_ids"]) <= 4
        assert answer["text"] in plain


def test_ctrl_c_in_the_middle_leaves_nothing_behind(home: Path) -> None:
    program = Path(sys.executable).with_name("sensenova")
    command = [program, "generate", "a cat", "--model", "tiny", "--size", "512x512", "--num-steps", "1000"]
    command += ["--dtype", "float32"]  # a step in bfloat16 takes long on CPUs without instructions for it
    with subprocess.Popen([*command, "-o", "out/cat.png"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "loaded in" in line:
                break
        time.sleep(0.3)  # somewhere in the steps
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(PATIENCE) == 130
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert list((home / "out").iterdir()) == []


def test_a_session_that_ends_while_its_model_is_loaded_again(home: Path) -> None:
    lines = "a cat\n/set offload layers\na dog\n/set offload off\n/set offload layers\n/set offload auto\n"
    for last in ("", "/set check_weights true\n"):
        done = subprocess.run(
            [sys.executable, "-m", "sensenova_cli", "repl", "-q", *SMALL],
            input=lines + last,
            capture_output=True,
            text=True,
            cwd=home,
            env={**os.environ, "SENSENOVA_DATA_DIR": str(home / "data"), "PYTHONPATH": str(REPOSITORY)},
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout.splitlines()) == 2


@pytest.mark.slow  # twelve times loading
def test_the_cells_of_a_grid_are_single_runs(home: Path) -> None:
    """Checks all bytes of twelve pictures, of which each has other settings."""
    result = sensenova(
        *("grid", "a {animal}", "--model", "tiny", "--size", "64x64", "--num-steps", "2"),
        *("--vary", "animal=cat,dog,owl", "--vary", "cfg_scale=1,2.5,4,6", "-o", "grid.png"),
    )
    *cells, sheet = result.stdout.split()
    assert sheet == "grid.png" and len(cells) == 12
    for cell, (scale, animal) in zip(cells, product((1, 2.5, 4, 6), ("cat", "dog", "owl")), strict=True):
        words = (f"a {animal}", "--model", "tiny", "--size", "64x64", "--num-steps", "2", "--cfg-scale", str(scale))
        sensenova("generate", *words, "-o", "single.png", "-f")
        assert (home / cell).read_bytes() == (home / "single.png").read_bytes()
