"""Quantized weights: their precision, and equal weights from loading and from conversion."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch

from config.errors import SettingsError
from config.settings import Quantization as Setting
from model import Answer, AnswerRequest, Engine, GenerateRequest, ImageSettings, Picture
from model.checkpoint import tensor_files
from model.checkpoint.builtin import DEMO_CHECKPOINT
from model.checkpoint.fp8 import FP8, Fp8Linear, quantize_rows
from model.checkpoint.loader import load_checkpoint
from model.checkpoint.quantization import (
    LAYERS,
    OFF,
    QUANTIZATIONS,
    format_advice,
    quantization_note,
    quantize_network,
    require_whole_groups,
    resolve_quantization,
)
from model.checkpoint.quantized_experts import QuantizedExperts
from model.checkpoint.random_weights import SHAPES, config_fields
from model.errors import DeviceError
from model.network.configuration import parse_config
from model.network.experts import StackedProjection

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


@pytest.mark.parametrize("name", ["fp8", "fp8-all", "int8", "int8-all"])
def test_loading_quantized_equals_converting_later(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    quantization = QUANTIZATIONS[name]
    stored = LAYERS[quantization.format].weight_dtype
    monkeypatch.setattr(tensor_files, "CHUNK_BYTES", 4096)  # read tensors in several chunks with several threads
    loaded = load_checkpoint(tiny_checkpoint, CPU, torch.bfloat16, quantized=quantization)
    converted = load_checkpoint(tiny_checkpoint, CPU, torch.bfloat16)
    quantize_network(converted, quantization)
    state, expected = loaded.state_dict(), converted.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name].float(), expected[name].float()) for name in state)
    quantized = {name.split(".")[0] for name, tensor in state.items() if tensor.dtype == stored}
    assert quantized == {*quantization.towers, *(["lm_head"] if quantization.head else [])}
    matrices = [name for name in state if name.startswith("gen.") and name.endswith("_proj.weight")]
    assert len(matrices) == 4 * 3 and all(state[name].dtype == stored for name in matrices)
    assert state["embed_tokens.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["fp8", "fp8-all", "int8", "int8-all"])
def test_the_quantized_demo_draws_and_describes_correctly(name: str) -> None:
    engine = Engine.load(DEMO_CHECKPOINT, device="cpu", quantization=name)
    settings = ImageSettings(size="256x256", num_steps=4, cfg_scale=2.5, timestep_shift=3.0)
    events = engine.run(GenerateRequest("a yellow star on a purple background", settings))
    picture = next(event for event in events if isinstance(event, Picture))
    events = engine.run(AnswerRequest("Describe this image.", (picture.image,)))
    answer = next(event for event in events if isinstance(event, Answer))
    assert answer.text == "A yellow star on a purple background."


@pytest.mark.parametrize("name", ["fp8", "fp8-all", "int8", "int8-all"])
def test_experts_are_quantized_one_by_one(
    name: str, parity_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading gives the bits of a later conversion, and each expert is like a projection of its own."""
    quantization = QUANTIZATIONS[name]
    monkeypatch.setattr(tensor_files, "CHUNK_BYTES", 20_000)  # read tensors in several chunks with several threads
    plain = load_checkpoint(parity_checkpoint("a3b"), CPU, torch.bfloat16)
    loaded = load_checkpoint(parity_checkpoint("a3b"), CPU, torch.bfloat16, quantized=quantization)
    original = plain.get_submodule("gen.blocks.1.mlp.down_proj")
    experts = loaded.get_submodule("gen.blocks.1.mlp.down_proj")
    assert isinstance(experts, QuantizedExperts) and isinstance(original, StackedProjection)
    one = LAYERS[quantization.format](experts.out_features, experts.in_features, CPU)
    one.fill(original.weight[3])
    x = torch.randn(20, experts.in_features).to(torch.bfloat16)
    assert torch.equal(experts.multiply_expert(3, x), one(x))
    exact = original.multiply_expert(3, x).float()
    assert 0 < float((one(x).float() - exact).norm() / exact.norm()) < 0.06
    quantize_network(plain, quantization)
    state, expected = loaded.state_dict(), plain.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name].float(), expected[name].float()) for name in state)
    assert state["gen.blocks.0.mlp.router.weight"].dtype == torch.bfloat16
    und = state["und.blocks.0.mlp.gate_up_proj.weight"].dtype
    assert (und == experts.weight.dtype) == name.endswith("-all")


def test_impossible_quantizations_are_refused_before_loading() -> None:
    with pytest.raises(SettingsError, match="quantization='int4': must be off, fp8, fp8-all, int8 or int8-all"):
        Engine.load("not there", quantization="int4")
    with pytest.raises(DeviceError, match="works with bfloat16, not with float32"):
        Engine.load("not there", dtype="float32", quantization="fp8")
    assert resolve_quantization("off", CPU, torch.float16) == OFF
    with pytest.raises(DeviceError, match="Apple's GPUs have no float8 numbers") as caught:
        resolve_quantization("fp8-all", torch.device("mps"), torch.bfloat16)
    assert caught.value.hint == "use `quantization=int8-all`"
    with pytest.raises(DeviceError, match="int8 works with bfloat16 and float32, not with float16"):
        resolve_quantization("int8", CPU, torch.float16)


def test_ranks_that_would_split_the_rotation_are_not_started() -> None:
    with pytest.raises(DeviceError, match="int8 rotates 256 columns of a weight in groups of 256"):
        Engine.load(DEMO_CHECKPOINT, device="cpu", tensor_parallel_size=2, quantization="int8-all")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], torch.device]:
    """A function that makes every CUDA device have a compute capability, and returns one of them."""

    def device(major: int, minor: int) -> torch.device:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, minor))
        return torch.device("cuda")

    return device


def test_a_gpu_without_eight_bit_units_is_named(gpu: Callable[[int, int], torch.device]) -> None:
    with pytest.raises(DeviceError) as caught:
        resolve_quantization("int8", gpu(7, 0), torch.bfloat16)
    assert caught.value.what == "this GPU has no eight-bit units (compute capability 7.0; from 7.5 on)"
    assert caught.value.hint == "use `quantization=off` with `offload=layers`"
    assert format_advice(gpu(7, 0)) == "this GPU has no eight-bit units, so eight-bit weights save no time"
    assert resolve_quantization("int8", gpu(7, 5), torch.bfloat16) == QUANTIZATIONS["int8"]


def test_a_format_that_saves_no_time_has_a_note(gpu: Callable[[int, int], torch.device]) -> None:
    assert quantization_note(QUANTIZATIONS["int8"], torch.device("mps")) == (
        "int8 saves memory on Apple's GPUs, and no time"
    )
    note = quantization_note(QUANTIZATIONS["fp8"], gpu(8, 6))
    assert note is not None and "multiplied as bfloat16 on this GPU" in note and "`quantization=int8`" in note
    assert quantization_note(QUANTIZATIONS["int8"], gpu(8, 6)) is None
    assert format_advice(gpu(8, 6)) == "`quantization=int8` saves memory and time on this GPU"
    assert format_advice(gpu(9, 0)).startswith("`quantization=fp8` and `quantization=int8` save memory and time")
    assert format_advice(torch.device("mps")) == "`quantization=int8` saves memory on this GPU, and no time"
    assert format_advice(CPU).startswith("`quantization=int8` saves memory")


def test_ranks_never_split_a_group_of_the_rotation() -> None:
    config = parse_config(config_fields(**SHAPES["u1-8b"]), "8b")
    for count in (1, 2, 4, 8):
        require_whole_groups(config, count, QUANTIZATIONS["int8-all"])
    narrow = parse_config(config_fields(**SHAPES["a3b"]), "a3b")
    require_whole_groups(narrow, 2, QUANTIZATIONS["fp8-all"])
    with pytest.raises(DeviceError) as caught:
        require_whole_groups(narrow, 2, QUANTIZATIONS["int8"])
    assert caught.value.what == (
        "tensor_parallel_size 2: int8 rotates 768 columns of a weight in groups of 256, and 384 columns on each rank "
        "are not whole groups"
    )


def test_the_settings_name_them_all() -> None:
    assert set(get_args(Setting)) == set(QUANTIZATIONS)
