"""`sensenova verify` on the demo, through the whole program: it passes, and a changed copy fails."""

import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from model.checkpoint.builtin import DEMO_CHECKPOINT
from sensenova_cli.app import app


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter an empty folder, without settings from the environment or the user's files."""
    for name in [name for name in os.environ if name.startswith("SENSENOVA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SENSENOVA_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def verify(*words: str) -> Result:
    return CliRunner().invoke(app, ["verify", *words], catch_exceptions=False)


def test_the_demo_passes(home: Path) -> None:
    result = verify("demo")
    assert result.exit_code == 0, result.stdout
    assert result.stdout.splitlines()[-1] == "demo passed: the files and 3 pictures are as expected"
    assert len(list(home.glob("verify-*.png"))) == 3


def test_a_perturbed_tensor(home: Path) -> None:
    folder = shutil.copytree(DEMO_CHECKPOINT, home / "changed")
    name = "fm_modules.fm_head.conv2.weight"
    (file,) = [file for file in folder.glob("*.safetensors") if name in load_file(file)]
    tensors = load_file(file)
    save_file({**tensors, name: tensors[name] * 1.05}, file)
    result = verify("changed")
    assert result.exit_code == 1
    assert f"{file.name} has the checksum" in result.stdout
    assert "strong guidance FAILED" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("changed FAILED: checksums, circle, strong guidance")
