"""Eight-bit safetensors files with missing, wrong or unknown scales and descriptions: one error with a message."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from model.checkpoint.stored_tensor import ScaledRows
from model.checkpoint.tensor_files import stored_tensors
from model.errors import CheckpointError
from tests.model.checkpoint.foreign_files import Tensors, description

NAME = "language_model.model.layers.0.mlp.down_proj"
WEIGHT, SCALE, DESCRIBED = f"{NAME}.weight", f"{NAME}.weight_scale", f"{NAME}.comfy_quant"


def int8_file(**changes: torch.Tensor | None) -> Tensors:
    """One rotated weight with a scale for each of its 16 rows, and other tensors of these endings; None removes one."""
    tensors: dict[str, torch.Tensor | None] = {
        WEIGHT: torch.randint(-127, 128, (16, 256), dtype=torch.int8),
        SCALE: torch.rand(16, 1) + 0.1,
        DESCRIBED: description(256),
        "language_model.model.norm.weight": torch.ones(4),
    }
    tensors |= {f"{NAME}.{ending}": tensor for ending, tensor in changes.items()}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[Tensors], Any]:
    def stored(tensors: Tensors) -> Any:
        save_file(tensors, tmp_path / "model.safetensors")
        return stored_tensors(tmp_path)

    return stored


def refused(stored: Callable[[Tensors], Any], tensors: Tensors, *words: str) -> CheckpointError:
    with pytest.raises(CheckpointError) as raised:
        stored(tensors)
    assert raised.value.hint and "model.safetensors" in raised.value.what and len(raised.value.what) < 1000
    for word in words:
        assert word in raised.value.what, raised.value.what
    return raised.value


def test_a_good_file(stored: Callable[[Tensors], Any]) -> None:
    found = stored(int8_file())
    assert set(found) == {WEIGHT, "language_model.model.norm.weight"}
    encoding = found[WEIGHT].encoding
    assert isinstance(encoding, ScaledRows) and (encoding.name, encoding.group) == ("int8", 256)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (16,), (16, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_shapes_of_scales(stored: Callable[[Tensors], Any], shape: tuple[int, ...], dtype: torch.dtype) -> None:
    encoding = stored(int8_file(weight_scale=torch.full(shape, 0.5, dtype=dtype)))[WEIGHT].encoding
    assert encoding.scales.tolist() == [0.5] * 16


@pytest.mark.parametrize("shape", [(0,), (15, 1), (17,), (1, 16), (16, 2), (16, 1, 1), (2, 8)])
def test_scales_of_another_shape(stored: Callable[[Tensors], Any], shape: tuple[int, ...]) -> None:
    refused(stored, int8_file(weight_scale=torch.ones(shape)), SCALE, f"{list(shape)}, and should have [16, 1]")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_that_are_not_positive_numbers(stored: Callable[[Tensors], Any], value: float) -> None:
    scales = torch.ones(16, 1)
    scales[7] = value
    refused(stored, int8_file(weight_scale=scales), SCALE, "not positive numbers")


def test_no_scales(stored: Callable[[Tensors], Any]) -> None:
    refused(stored, int8_file(weight_scale=None), f"{WEIGHT} is stored as I8 without a scale")
    plain = torch.ones(16, 256).to(torch.float8_e4m3fn)
    refused(stored, {WEIGHT: plain}, f"{WEIGHT} is stored as F8_E4M3 without a scale")


def test_scales_of_whole_numbers(stored: Callable[[Tensors], Any]) -> None:
    refused(stored, int8_file(weight_scale=torch.ones(16, 1, dtype=torch.int8)), SCALE)


def test_int8_without_a_description(stored: Callable[[Tensors], Any]) -> None:
    """Whether it is rotated is not known, and a rotation must not be ignored."""
    refused(stored, int8_file(comfy_quant=None), f"{DESCRIBED} is missing, which says whether it is rotated")


@pytest.mark.parametrize("name", ["int8_blockwise", "", "float8_e4m3fn", "x" * 300])
def test_an_unknown_format(stored: Callable[[Tensors], Any], name: str) -> None:
    refused(stored, int8_file(comfy_quant=description(256, format=name)), DESCRIBED, repr(name[:60]))


@pytest.mark.parametrize("name", ["asym_w4a8_int8", "convrot_w4a4", "nvfp4"])
def test_four_bits(stored: Callable[[Tensors], Any], name: str) -> None:
    """One message names all such layers, also of a file with weights in eight bits."""
    tensors = int8_file()
    for layer in range(18, 42):
        base = f"language_model.model.layers.{layer}.mlp.down_proj"
        tensors[f"{base}.weight"] = torch.zeros(16, 128, dtype=torch.uint8)
        tensors[f"{base}.comfy_quant"] = description(256, format=name)
    error = refused(stored, tensors, "24 tensors are stored in 4 bits, which are not read", name, "layers.{18-41}")
    assert "take the int8 file, or the original with `quantization=int8`" in str(error.hint)


@pytest.mark.parametrize("group", [0, -256, 2, 8, 100, 512, 2**40, 16.0, "256", None, True])
def test_groups_that_are_not_known(stored: Callable[[Tensors], Any], group: Any) -> None:
    refused(stored, int8_file(comfy_quant=description(256, convrot_groupsize=group)), DESCRIBED, "is not known")


def test_a_group_that_does_not_divide(stored: Callable[[Tensors], Any]) -> None:
    values = torch.zeros(16, 320, dtype=torch.int8)
    refused(stored, int8_file(weight=values), "rows of 320 numbers cannot be rotated in groups of 256")


@pytest.mark.parametrize("rotated", [1, "true", None, [True]])
def test_a_rotation_that_is_not_understood(stored: Callable[[Tensors], Any], rotated: Any) -> None:
    refused(stored, int8_file(comfy_quant=description(256, convrot=rotated)), "without it the weight would be wrong")


def test_a_file_without_rotation(stored: Callable[[Tensors], Any]) -> None:
    assert stored(int8_file(comfy_quant=description(1)))[WEIGHT].encoding.group == 1


@pytest.mark.parametrize("content", [b"{", b"[1]", b"7", b"\xff\xff", b" " * 5000, b"[" * 4000, b'{"format": NaN}'])
def test_a_damaged_description(stored: Callable[[Tensors], Any], content: bytes) -> None:
    described = torch.tensor(list(content), dtype=torch.uint8)
    refused(stored, int8_file(comfy_quant=described), f"{DESCRIBED} cannot be understood")


def test_a_description_of_another_type(stored: Callable[[Tensors], Any]) -> None:
    fields = json.dumps({"format": "int8_tensorwise"}).encode()
    refused(stored, int8_file(comfy_quant=torch.tensor(list(fields), dtype=torch.float32)), DESCRIBED)


def test_eight_bits_of_another_shape(stored: Callable[[Tensors], Any]) -> None:
    refused(stored, int8_file(weight=torch.zeros(16, dtype=torch.int8)), "with the shape [16]")
    refused(stored, {"vision_model.embeddings.patch_embedding.bias": torch.zeros(4, dtype=torch.int8)}, "stored as I8")


def test_prefixes_of_other_programs(stored: Callable[[Tensors], Any]) -> None:
    found = stored({f"model.diffusion_model.{name}": tensor for name, tensor in int8_file().items()})
    assert set(found) == {WEIGHT, "language_model.model.norm.weight"}
    doubled = int8_file() | {f"diffusion_model.{WEIGHT}": torch.zeros(16, 256)}
    refused(stored, doubled, f"has two tensors {WEIGHT}")
