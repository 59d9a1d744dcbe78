"""Which runtime a network gets, and what is said where the fast one cannot be had."""

from pathlib import Path

import pytest
import torch

from model import Engine, GenerateRequest, ImageSettings, Notice
from model.network.configuration import TransformerConfig, parse_config
from model.placement.acceleration import obstacle
from model.weights.synthetic import SHAPES, config_fields

HOPPER = (9, 0)


@pytest.fixture
def nvidia(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TransformerConfig:
    """A machine with everything that it takes, and the 8B's transformer."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CC", "/usr/bin/gcc")
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    return parse_config(config_fields(**SHAPES["u1-8b"]), "u1-8b").transformer


def test_nothing_is_in_the_way_on_a_usual_machine(nvidia: TransformerConfig) -> None:
    assert obstacle(nvidia, HOPPER) is None
    assert obstacle(nvidia, (8, 0)) is None


def test_what_is_missing_is_said(nvidia: TransformerConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "need compute capability 8.0, this GPU has 7.5" in str(obstacle(nvidia, (7, 5)))
    narrow = parse_config(config_fields(**{**SHAPES["u1-8b"], "head_dim": 96}), "odd").transformer
    assert "these have 96" in str(obstacle(narrow, HOPPER))
    (tmp_path / "Python.h").unlink()
    assert "install python3-dev" in str(obstacle(nvidia, HOPPER))
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install gcc" in str(obstacle(nvidia, HOPPER))
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "NVIDIA" in str(obstacle(nvidia, HOPPER))


def test_a_note_comes_with_the_first_request_alone(tiny_checkpoint: Path) -> None:
    engine = Engine.load(tiny_checkpoint, device="cpu")
    engine._runtime.note = "kernels are compiled"
    request = GenerateRequest("a cat", ImageSettings(size="64x96", num_steps=1))

    def notices() -> list[str]:
        return [event.text for event in engine.run(request) if isinstance(event, Notice) and "kernels" in event.text]

    assert [notices(), notices()] == [["kernels are compiled"], []]
