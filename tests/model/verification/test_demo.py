"""The demo's pictures notice changed weights and a changed configuration. Each test takes seconds."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from model import Checks, Engine, Picture, compare_picture, find_checks
from model.checkpoint.builtin import DEMO_CHECKPOINT
from model.checkpoint.file_names import INDEX_FILE, SINGLE_FILE

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def weights() -> Tensors:
    return {name: tensor for file in DEMO_CHECKPOINT.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the demo without its weights."""
    ignored = shutil.ignore_patterns("*.safetensors", INDEX_FILE)
    return Path(shutil.copytree(DEMO_CHECKPOINT, tmp_path / "checkpoint", ignore=ignored))


def failed_pictures(folder: Path) -> list[str]:
    """Draw the pictures in float32 and return the names of those that differ."""
    checks = find_checks(str(folder), folder)
    assert isinstance(checks, Checks)
    engine = Engine.load(folder, device="cpu", dtype="float32")
    made: dict[str, Image.Image] = {}
    failed = []
    for check in checks.pictures:
        for event in engine.run(check.request(made.get(check.edits or ""))):
            if isinstance(event, Picture):
                made[check.name] = event.image
        if not compare_picture(check, made[check.name], check.tolerance_for("float32", checks.dtype)).passed:
            failed.append(check.name)
    return failed


def save(folder: Path, tensors: Tensors) -> None:
    save_file(tensors, folder / SINGLE_FILE)


@pytest.mark.parametrize(
    "name",
    [
        "language_model.model.layers.0.self_attn.v_proj.weight",
        "language_model.model.layers.1.mlp_mot_gen.gate_proj.weight",
        "language_model.model.layers.3.self_attn.o_proj_mot_gen.weight",
        "language_model.model.layers.3.input_layernorm.weight",
        "fm_modules.timestep_embedder.mlp.0.weight",
        "fm_modules.fm_head.conv2.weight",
    ],
)
def test_a_tensor_that_is_5_percent_too_large(folder: Path, weights: Tensors, name: str) -> None:
    save(folder, {**weights, name: weights[name] * 1.05})
    assert failed_pictures(folder) != []


def swapped(weights: Tensors, first: int, second: int) -> Tensors:
    """Return the weights with the names of two layers swapped."""
    names = {f".layers.{first}.": f".layers.{second}.", f".layers.{second}.": f".layers.{first}."}
    return {
        next((name.replace(old, new) for old, new in names.items() if old in name), name): tensor
        for name, tensor in weights.items()
    }


@pytest.mark.parametrize(("first", "second"), [(1, 2), (4, 5)])
def test_two_layers_that_are_swapped(folder: Path, weights: Tensors, first: int, second: int) -> None:
    save(folder, swapped(weights, first, second))
    assert failed_pictures(folder) == ["circle", "strong guidance", "edit"]


def set_config(section: str, name: str, value: float) -> Callable[[dict[str, dict[str, float]]], None]:
    return lambda fields: fields[section].__setitem__(name, value)


@pytest.mark.parametrize(
    "change",
    [
        set_config("llm_config", "rope_theta", 1e6),
        set_config("llm_config", "rope_theta_hw", 1e3),
        set_config("vision_config", "rope_theta_vision", 1e3),
    ],
)
def test_a_changed_rope_theta_changes_pictures(
    folder: Path, weights: Tensors, change: Callable[[dict[str, dict[str, float]]], None]
) -> None:
    fields = json.loads((folder / "config.json").read_text())
    change(fields)
    (folder / "config.json").write_text(json.dumps(fields))
    save(folder, weights)
    assert "strong guidance" in failed_pictures(folder)
