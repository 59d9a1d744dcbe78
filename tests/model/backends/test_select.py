"""Which runtime a network gets, and what is said where the fast one cannot be had."""

from pathlib import Path

import pytest
import torch

from model import Engine, GenerateRequest, ImageSettings, Notice
from model.backends.select import kernel_obstacle
from model.checkpoint.quantization import QUANTIZATIONS, empty_quantized
from model.checkpoint.random_weights import SHAPES, config_fields
from model.network.configuration import parse_config
from model.network.sensenova import SenseNovaU1

HOPPER = (9, 0)


def network(**shape: int) -> SenseNovaU1:
    """Of an 8B's shape, without memory."""
    fields = config_fields(**{**SHAPES["u1-8b"], "layers": 1, **shape})
    with torch.device("meta"):
        return SenseNovaU1(parse_config(fields, "u1"))


@pytest.fixture
def nvidia(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with everything that it takes."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CC", "/usr/bin/gcc")
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))


@pytest.mark.usefixtures("nvidia")
def test_nothing_is_in_the_way_on_a_usual_machine() -> None:
    assert kernel_obstacle(network(), HOPPER) is None
    assert kernel_obstacle(network(), (8, 0)) is None


@pytest.mark.usefixtures("nvidia")
def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "need compute capability 8.0, this GPU has 7.5" in str(kernel_obstacle(network(), (7, 5)))
    assert "a power of two, this model's is 96" in str(kernel_obstacle(network(head_dim=96), HOPPER))
    eight_bit = network()
    empty_quantized(eight_bit, QUANTIZATIONS["fp8"], torch.device("cpu"))
    assert "units for eight-bit numbers" in str(kernel_obstacle(eight_bit, (8, 6)))
    (tmp_path / "Python.h").unlink()
    assert "install python3-dev" in str(kernel_obstacle(network(), HOPPER))
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install gcc" in str(kernel_obstacle(network(), HOPPER))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "Triton is not installed" in str(kernel_obstacle(network(), HOPPER))
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "NVIDIA" in str(kernel_obstacle(network(), HOPPER))


def test_a_note_comes_with_the_first_request_alone(tiny_checkpoint: Path) -> None:
    engine = Engine.load(tiny_checkpoint, device="cpu")
    engine._runner.model.backend.note = "kernels are compiled"
    request = GenerateRequest("a cat", ImageSettings(size="64x96", num_steps=1))

    def notices() -> list[str]:
        return [event.text for event in engine.run(request) if isinstance(event, Notice) and "kernels" in event.text]

    assert [notices(), notices()] == [["kernels are compiled"], []]
