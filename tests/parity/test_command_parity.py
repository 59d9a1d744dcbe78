"""Golden cases through the real command, in a process of its own: the PNG it writes, the JSON it prints."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def chosen(names: tuple[str, ...]) -> list[Case]:
    every = {case_id(case): case for case in cases("t2i", "edit", "describe", "chat")}
    return [every[name] for name in names]


def sensenova(*arguments: str | Path, cwd: Path) -> str:
    """Run the program; what it printed on stdout."""
    program = Path(sys.executable).with_name("sensenova")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SENSENOVA_")}
    environment["SENSENOVA_CONFIG_DIR"] = str(cwd / "no-user-settings")
    done = subprocess.run(
        [program, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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
    printed = sensenova(*command, *flags, *model, "-o", "made.png", cwd=tmp_path)
    assert printed == "made.png\n"
    ours = np.asarray(Image.open(tmp_path / "made.png")).astype(float)
    theirs = golden(case, "image")[0].permute(1, 2, 0).double().numpy()
    assert np.abs(ours - (theirs * 0.5 + 0.5).clip(0, 1) * 255).max() <= 2


@pytest.mark.parametrize("case", chosen(TEXTS), ids=case_id)
def test_text(case: Case, parity_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    if case["task"] == "describe":
        command = ["describe", *(DATA / name for name in case["images"]), "-p", case["question"]]
    else:
        command = ["chat", case["query"].split("user\n")[1].split("<|im_end|>")[0]]
    model = ["--model", parity_checkpoint(case["checkpoint"]), "--dtype", "float32", "--device", "cpu"]
    printed = sensenova(*command, *model, "--max-tokens", "24", "--json", cwd=tmp_path)
    assert json.loads(printed)["token_ids"] == golden(case, "new_ids")[0].tolist()
