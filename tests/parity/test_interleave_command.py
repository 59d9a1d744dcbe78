"""Golden cases of interleaved answers through the real command in a process of its own: tokens, pictures, replays."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sensenova_cli.app import app
from tests.parity.cases import DATA, Case, case_id
from tests.parity.interleaved import interleaved_cases, interleaved_golden, scripted_checkpoint

QUICK = ("u1/two_pictures",)
CHOSEN = (
    *QUICK,
    "u1/think",
    "u1/two_inputs_dual",
    "u1/ten_pictures",
    "u1/text_only",
    "u15/think_input",
    "a3b/one_input_global",
)
CASES = {case_id(case): case for case in interleaved_cases()}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and no settings from elsewhere."""
    for name in [name for name in os.environ if name.startswith("SENSENOVA_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.setenv("SENSENOVA_CONFIG_DIR", str(tmp_path / "no-user-settings"))
    monkeypatch.chdir(folder)
    return folder


def command(case: Case, model: Path) -> list[str]:
    args = dict(case["args"])
    width, height = args.pop("image_size")
    words = ["interleave", case["prompt"], "--model", str(model), "--dtype", "float32", "--device", "cpu"]
    words += ["--size", f"{width}x{height}", "--seed", str((case["seeds"] or [42])[0])]
    words += ["--think" if args.pop("think_mode") else "--no-think", "--max-tokens"]
    words += [str(args.pop("max_new_tokens", 8192))]
    for name, value in args.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    for name in case["images"]:
        words += ["--image", str(DATA / name)]
    if case["system_message"] is not None:
        words += ["--system", case["system_message"]]
    return words


def ids_between_pictures(parts: list[dict[str, Any]]) -> list[list[int]]:
    """Return the tokens before the first picture, between each two, and after the last one.

    Args:
        parts: of the printed answer, or the segments of a case.
    """
    found: list[list[int]] = [[]]
    for part in parts:
        if "path" in part or "picture" in part:
            found.append([])
        else:
            found[-1] += part.get("token_ids") or part["text_ids"]
    return found


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CHOSEN]
)
def test_case(name: str, parity_checkpoint: Callable[[str], Path], tmp_path: Path, home: Path) -> None:
    case = CASES[name]
    model = scripted_checkpoint(case, parity_checkpoint(case["checkpoint"]), tmp_path / "model")
    program = Path(sys.executable).with_name("sensenova")
    done = subprocess.run([program, *command(case, model), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["finish"] == case["finish"]
    assert ids_between_pictures(answer["parts"]) == ids_between_pictures(case["segments"])
    pictures = [part for part in answer["parts"] if "path" in part]
    assert [picture["seed"] for picture in pictures] == case["seeds"]
    for index, picture in enumerate(pictures):
        ours = np.asarray(Image.open(home / picture["path"])).astype(float)
        theirs = interleaved_golden(case, f"image{index}")[0].permute(1, 2, 0).double().numpy()
        assert np.abs(ours - (theirs * 0.5 + 0.5).clip(0, 1) * 255).max() <= 2


@pytest.mark.parametrize("index", [0, 1])
def test_a_picture_is_repeated_byte_for_byte(
    index: int, parity_checkpoint: Callable[[str], Path], tmp_path: Path, home: Path
) -> None:
    case = CASES["u1/two_inputs_dual"]
    model = scripted_checkpoint(case, parity_checkpoint(case["checkpoint"]), tmp_path / "model")
    made = CliRunner().invoke(app, [*command(case, model), "-o", "made/"], catch_exceptions=False)
    assert made.exit_code == 0, made.stderr
    files = sorted(Path("made").iterdir())
    again = CliRunner().invoke(
        app,
        ["interleave", "--from", str(files[index]), "--trust-record", "--device", "cpu", "-o", "again/"],
        catch_exceptions=False,
    )
    assert again.exit_code == 0, again.stderr
    repeated = sorted(Path("again").iterdir())
    assert [file.name for file in repeated] == [file.name for file in files[: index + 1]]
    assert [file.read_bytes() for file in repeated] == [file.read_bytes() for file in files[: index + 1]]
