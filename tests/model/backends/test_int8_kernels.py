"""The Triton kernels for int8, compared with PyTorch.

They run on a CUDA device, or at small shapes in Triton's interpreter:

    TRITON_INTERPRET=1 python -m pytest tests/model/backends/test_int8_kernels.py     # triton must be installed
"""

import importlib.util
import os
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.backends.gpu import GpuAttention
from model.checkpoint.int8 import Int8Linear
from model.checkpoint.quantization import QUANTIZATIONS, quantize_network
from model.checkpoint.random_weights import config_fields, random_network
from model.inputs.token_sequence import TokenSequence
from model.network.attention import Segment
from model.network.configuration import parse_config
from model.network.projection import QuantizedRows, RowFormat
from model.network.rope import text_positions
from model.network.rotation import rotate_reversed, rotation_group
from model.sampling.backend import Backend
from model.sampling.prefill import prefill

HAS_CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_CUDA else "cpu")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not (HAS_CUDA or os.environ.get("TRITON_INTERPRET") == "1"),
    reason="needs triton, and a CUDA device or TRITON_INTERPRET=1",
)
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not HAS_CUDA, reason="no CUDA device is here")]
EPS = 1e-6
DTYPES = [torch.float32, pytest.param(torch.bfloat16, marks=ON_GPU)]  # the interpreter rounds to bfloat16 otherwise
SMALL_WIDTHS = [256, 320, 48]
WIDTHS = [*SMALL_WIDTHS, *(pytest.param(width, marks=ON_GPU) for width in (768, 4096, 12288))]
PRODUCTS = [
    (1, 96, 320),
    (5, 112, 256),
    (40, 48, 48),
    *(
        pytest.param(*shape, marks=ON_GPU)
        for shape in (
            (1, 4096, 4096),
            (17, 6144, 4096),
            (300, 4096, 12288),
            (1024, 24576, 4096),
            (2053, 4096, 4096),
            (4096, 24576, 4096),
            (4096, 4096, 12288),
            (4105, 272, 4112),  # neither size is a multiple of a tile
        )
    ),
]
"""Rows, and rows and columns of the weight."""


def layer(features: int, width: int, dtype: torch.dtype) -> tuple[Int8Linear, Tensor]:
    weight = (torch.randn(features, width, device=DEVICE) * width**-0.5).to(dtype)
    made = Int8Linear(features, width, DEVICE)
    made.fill(weight)
    return made, weight


def plainly_quantized(rows: Tensor, row_format: RowFormat) -> QuantizedRows:
    rotated = rotate_reversed(rows, row_format.group)
    scales = rotated.abs().amax(dim=1, keepdim=True) / row_format.greatest
    return QuantizedRows((rotated / scales).round().to(torch.int8), scales, rows.dtype)


def assert_nearly_equal(found: QuantizedRows, expected: QuantizedRows) -> None:
    """A number half-way between two may be rounded to either, as sums are in another order."""
    torch.testing.assert_close(found.scales, expected.scales)
    difference = (found.values.int() - expected.values.int()).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 0.02
    assert found.dtype == expected.dtype


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_rows_are_rotated_and_quantized(width: int, dtype: torch.dtype) -> None:
    from model.backends.kernels import rows as kernels

    row_format = RowFormat(torch.int8, 127.0, rotation_group(width))
    rows = torch.randn(7, width, device=DEVICE).to(dtype)
    rows[:, :: max(1, width // 10)] *= 20
    rows[3] = 0
    found = kernels.quantized(rows, row_format)
    assert (found.values[3] == 0).all() and torch.isfinite(found.scales).all()
    kept = [0, 1, 2, 4, 5, 6]
    part = QuantizedRows(found.values[kept], found.scales[kept], found.dtype)
    assert_nearly_equal(part, plainly_quantized(rows[kept], row_format))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_norm_and_the_gate_quantize_their_result(width: int, dtype: torch.dtype) -> None:
    from model.backends.kernels import rows as kernels

    row_format = RowFormat(torch.int8, 127.0, rotation_group(width))
    rows, addend = (torch.randn(5, width, device=DEVICE).to(dtype) for _ in range(2))
    weight = torch.randn(width, device=DEVICE).to(dtype)
    total = rows + addend
    normal = total.float() * torch.rsqrt(total.float().pow(2).mean(-1, keepdim=True) + EPS)
    found = kernels.normed(rows, addend, weight, EPS, row_format)
    assert isinstance(found, QuantizedRows) and torch.equal(rows, total)
    assert_nearly_equal(found, plainly_quantized(normal.to(dtype) * weight, row_format))

    gate_up = torch.randn(5, 2 * width, device=DEVICE).to(dtype)
    gate, up = gate_up.chunk(2, dim=-1)
    gated = kernels.gated(gate_up, row_format)
    assert isinstance(gated, QuantizedRows)
    assert_nearly_equal(gated, plainly_quantized(F.silu(gate) * up, row_format))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("count", "features", "width"), PRODUCTS)
def test_the_product_is_exact_up_to_its_scales(count: int, features: int, width: int, dtype: torch.dtype) -> None:
    from model.backends.kernels.int8_product import int8_product

    made, weight = layer(features, width, dtype)
    x = torch.randn(count, width, device=DEVICE).to(dtype)
    rows = plainly_quantized(x, RowFormat(torch.int8, 127.0, made.group))
    found = int8_product(rows, made.weight, made.scale)
    assert found.shape == (count, features) and found.dtype == dtype
    # In float64 sums of int8 products are exact.
    exact = (rows.values.double() * rows.scales.double()) @ (made.weight.double() * made.scale[:, None].double()).T
    torch.testing.assert_close(found.double(), exact, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)
    assert relative_error(found, x.double() @ weight.double().T) < 0.016


def test_the_product_of_no_rows_is_empty() -> None:
    from model.backends.kernels.int8_product import int8_product

    made, _ = layer(32, 64, torch.float32)
    rows = QuantizedRows(made.weight[:0], made.scale[:0, None], torch.float32)
    assert int8_product(rows, made.weight, made.scale).shape == (0, 32)


@pytest.mark.skipif(HAS_CUDA, reason="test_gpu.py compares whole networks on a GPU")
@pytest.mark.parametrize("quantization", ["off", "int8-all"])
def test_a_network_of_fused_kernels_reads_and_writes_like_the_plain_one(
    quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.backends.cuda import FusedOperations
    from model.backends.decode import DecodePass

    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    shape = {"hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 80, "vocabulary": 64, "vision_hidden": 16}
    config = parse_config(config_fields(layers=2, convolutional_head=False, **shape), "random")
    ids = torch.arange(20)
    sequence = TokenSequence(ids, text_positions(0, 20, DEVICE), (Segment(20, causal=True),), 20)
    results = []
    for fused in (False, True):
        torch.manual_seed(0)
        network = random_network(config, DEVICE, torch.float32)
        quantize_network(network, QUANTIZATIONS[quantization])
        if fused:
            network.und.operations = FusedOperations(GpuAttention(groups_heads=True))
        with torch.inference_mode():
            prefix = prefill(network, sequence, [], 1)
            if fused:
                decode_pass = DecodePass(network, None, as_graph=False)
                ((_, logits),) = decode_pass(prefix, torch.tensor([5]))
            else:
                _, logits = Backend(network).forward_token(prefix, torch.tensor(5))
        results.append((prefix.last_hidden, logits))
    # Inputs of a token's products are not quantized here, and 20 rows are on both sides.
    tolerance = 1e-5 if quantization == "off" else 0.03
    for plain, fused_result in zip(*results, strict=True):
        assert relative_error(fused_result, plain) < tolerance


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_token_goes_through_a_rotated_weight(width: int, dtype: torch.dtype) -> None:
    from model.backends.kernels.one_token import matrix_vector, rotate_vector

    made, weight = layer(96, width, dtype)
    vector, norm = torch.randn(width, device=DEVICE).to(dtype), torch.randn(width, device=DEVICE).to(dtype)
    rotated = torch.empty(width, dtype=torch.float32, device=DEVICE)
    rotate_vector(vector, rotated, made.group, (norm, EPS))
    normed = (vector.float() * torch.rsqrt(vector.float().pow(2).mean() + EPS)).to(dtype) * norm
    torch.testing.assert_close(rotated, rotate_reversed(normed[None], made.group)[0], rtol=2e-2, atol=2e-2)

    residual, out = torch.randn(96, device=DEVICE).to(dtype), torch.empty(96, dtype=dtype, device=DEVICE)
    matrix_vector(made.weight, rotated, out, residual=residual, scale=made.scale)
    assert relative_error(out, weight.double() @ normed.double() + residual.double()) < 0.015
    gated = torch.empty(48, dtype=dtype, device=DEVICE)
    matrix_vector(made.weight, rotated, gated, gated=True, scale=made.scale)
    gate, up = (weight.double() @ normed.double()).chunk(2)
    assert relative_error(gated, F.silu(gate) * up) < 0.025
