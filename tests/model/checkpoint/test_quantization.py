"""Quantized weights: their precision, and equal weights from loading and from conversion."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch

from config.errors import SettingsError
from config.settings import Quantization
from model import Answer, AnswerRequest, Engine, GenerateRequest, ImageSettings, Picture
from model.checkpoint import tensor_files
from model.checkpoint.builtin import DEMO_CHECKPOINT
from model.checkpoint.loader import load_checkpoint
from model.checkpoint.quantization import (
    FP8,
    QUANTIZED_TOWERS,
    Fp8Linear,
    quantize_network,
    quantize_rows,
    resolve_quantization,
)
from model.errors import DeviceError

CPU = torch.device("cpu")


def test_a_row_keeps_three_bits_of_each_number_and_its_maximum() -> None:
    rows = torch.randn(7, 64) * torch.tensor([1e-6, 1e-3, 0.1, 1, 10, 1e3, 1e6])[:, None]
    quantized = quantize_rows(rows)
    numbers, scale = quantized.values, quantized.scales
    assert numbers.dtype == FP8 and scale.shape == (7, 1)
    restored = numbers.float() * scale
    # Numbers below a thousandth of the greatest are rounded to steps of a fixed size.
    coarse = rows.abs() > rows.abs().amax(dim=1, keepdim=True) / 1000
    assert ((restored - rows).abs() <= rows.abs() / 16 + 1e-30)[coarse].all()
    torch.testing.assert_close(restored.abs().amax(dim=1), rows.abs().amax(dim=1))


def test_rows_of_zeros_stay_zeros() -> None:
    quantized = quantize_rows(torch.zeros(2, 16))
    numbers, scale = quantized.values, quantized.scales
    assert (numbers.float() == 0).all() and torch.isfinite(scale).all()


def test_a_quantized_layer_is_near_the_original() -> None:
    plain = torch.nn.Linear(256, 96, bias=False).to(torch.bfloat16)
    quantized = Fp8Linear(96, 256, CPU)
    quantized.fill(plain.weight)
    x = torch.randn(2, 5, 256).to(torch.bfloat16)
    result = quantized(x)
    assert result.shape == (2, 5, 96) and result.dtype == torch.bfloat16
    difference = (result.float() - plain(x).float()).norm() / plain(x).float().norm()
    assert 0.005 < difference < 0.06


@pytest.mark.parametrize("towers", [("gen",), ("gen", "und")])
def test_loading_quantized_equals_converting_later(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, towers: tuple[str, ...]
) -> None:
    monkeypatch.setattr(tensor_files, "CHUNK_BYTES", 4096)  # read tensors in several chunks with several threads
    loaded = load_checkpoint(tiny_checkpoint, CPU, torch.bfloat16, quantized=towers)
    converted = load_checkpoint(tiny_checkpoint, CPU, torch.bfloat16)
    quantize_network(converted, towers)
    state, expected = loaded.state_dict(), converted.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name].float(), expected[name].float()) for name in state)
    quantized = {name.split(".")[0] for name, tensor in state.items() if tensor.dtype == FP8}
    assert quantized == set(towers)
    matrices = [name for name in state if name.startswith("gen.") and name.endswith("_proj.weight")]
    assert len(matrices) == 4 * 3 and all(state[name].dtype == FP8 for name in matrices)
    assert state["lm_head.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["fp8", "fp8-all"])
def test_the_quantized_demo_draws_and_describes_correctly(name: str) -> None:
    engine = Engine.load(DEMO_CHECKPOINT, device="cpu", quantization=name)
    settings = ImageSettings(size="256x256", num_steps=4, cfg_scale=2.5, timestep_shift=3.0)
    events = engine.run(GenerateRequest("a yellow star on a purple background", settings))
    picture = next(event for event in events if isinstance(event, Picture))
    events = engine.run(AnswerRequest("Describe this image.", (picture.image,)))
    answer = next(event for event in events if isinstance(event, Answer))
    assert answer.text == "A yellow star on a purple background."


def test_experts_are_not_quantized(parity_checkpoint: Callable[[str], Path]) -> None:
    network = load_checkpoint(parity_checkpoint("a3b"), CPU, torch.bfloat16, quantized=("gen",))
    dtypes = {name: tensor.dtype for name, tensor in network.state_dict().items()}
    assert dtypes["gen.blocks.0.attention.qkv_proj.weight"] == FP8
    assert dtypes["gen.blocks.0.mlp.gate_up_proj"] == torch.bfloat16


def test_impossible_quantizations_are_refused_before_loading() -> None:
    with pytest.raises(SettingsError, match="quantization='int4': must be off, fp8 or fp8-all"):
        Engine.load("not there", quantization="int4")
    with pytest.raises(DeviceError, match="works with bfloat16, not with float32"):
        Engine.load("not there", dtype="float32", quantization="fp8")
    assert resolve_quantization("off", CPU, torch.float16) == ()
    with pytest.raises(DeviceError, match="Apple's GPUs have no eight-bit numbers"):
        resolve_quantization("fp8", torch.device("mps"), torch.bfloat16)


def test_the_settings_name_them_all() -> None:
    assert set(get_args(Quantization)) == set(QUANTIZED_TOWERS)
