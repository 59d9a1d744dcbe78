"""Golden cases through the real command: the PNG it writes, the JSON it prints.

One picture and one text are made by a process of its own, the others in this one.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sensenova_cli.app import app
from tests.parity.cases import DATA, Case, case_id, cases, golden, image_settings

PICTURES = (
    "u1/t2i_zero_star",
    "u1/t2i_interval",
    "u1/t2i_think",
    "u1/edit_two_images",
    "u15/t2i_wide",
    "u15/edit_dual",
    "a3b/t2i_none",
)
TEXTS = ("u1/vqa_rgba", "u15/vqa_two", "a3b/chat_one")
OWN_PROCESS = ("u1/edit_two_images", "u1/vqa_rgba")


def chosen(names: tuple[str, ...]) -> list[Case]:
    every = {case_id(case): case for case in cases("t2i", "edit", "describe", "chat")}
    return [every[name] for name in names]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current folder, and no settings from elsewhere."""
    for name in [name for name in os.environ if name.startswith("SENSENOVA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SENSENOVA_CONFIG_DIR", str(tmp_path / "no-user-settings"))
    monkeypatch.chdir(tmp_path)


def sensenova(case: Case, *arguments: object) -> str:
    """Run the program for a case and return its stdout."""
    words = [str(argument) for argument in arguments]
    if case_id(case) in OWN_PROCESS:
        program = Path(sys.executable).with_name("sensenova")
        done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("case", chosen(PICTURES), ids=case_id)
def test_picture(case: Case, parity_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    given = case["args"]
    settings = image_settings(case)
    flags = ["--size", settings.size, "--seed", settings.seed, "--num-steps", settings.num_steps]
    flags += ["--cfg-scale", settings.cfg_scale, "--cfg-norm", settings.cfg_norm]
    flags += ["--timestep-shift", settings.timestep_shift]
    flags += ["--cfg-interval", *given["cfg_interval"]] if "cfg_interval" in given else []
    flags += ["--think"] if settings.think else []
    command = ["generate", case["prompt"]]
    if case["task"] == "edit":
        command = ["edit", case["prompt"], "--image", *(DATA / name for name in case["images"])]
        flags += ["--img-cfg-scale", settings.img_cfg_scale, "--input-pixels", "native"]
    model = ["--model", parity_checkpoint(case["checkpoint"]), "--dtype", "float32", "--device", "cpu"]
    printed = sensenova(case, *command, *flags, *model, "-o", "made.png")
    assert printed == "made.png\n"
    ours = np.asarray(Image.open(tmp_path / "made.png")).astype(float)
    theirs = golden(case, "image")[0].permute(1, 2, 0).double().numpy()
    assert np.abs(ours - (theirs * 0.5 + 0.5).clip(0, 1) * 255).max() <= 2


@pytest.mark.parametrize("case", chosen(TEXTS), ids=case_id)
def test_text(case: Case, parity_checkpoint: Callable[[str], Path]) -> None:
    if case["task"] == "describe":
        command = ["describe", *(DATA / name for name in case["images"]), "-p", case["question"]]
    else:
        command = ["chat", case["query"].split("user\n")[1].split("<|im_end|>")[0]]
    model = ["--model", parity_checkpoint(case["checkpoint"]), "--dtype", "float32", "--device", "cpu"]
    printed = sensenova(case, *command, *model, "--max-tokens", "24", "--json")
    assert json.loads(printed)["token_ids"] == golden(case, "new_ids")[0].tolist()
