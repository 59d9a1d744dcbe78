"""Experts on a GPU: grouped products, weighted sums and the kernels of one token, compared with the plain path.

They run on a CUDA device, or at small shapes in Triton's interpreter:

    TRITON_INTERPRET=1 python -m pytest tests/model/backends/test_expert_kernels.py     # triton must be installed
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from model.backends.gpu import GpuAttention
from model.backends.select import select_backend, set_plain_operations
from model.checkpoint.quantization import QUANTIZATIONS
from model.checkpoint.quantized_experts import QuantizedExperts
from model.checkpoint.random_weights import config_fields, random_network
from model.events import Branch
from model.inputs.token_sequence import TokenSequence
from model.network.attention import Segment
from model.network.configuration import parse_config
from model.network.experts import Experts, Routing, StackedLinear, StackedProjection
from model.network.projection import QuantizedRows, Rows
from model.network.rope import text_positions
from model.network.sensenova import SenseNovaU1
from model.sampling.backend import Backend
from model.sampling.denoise import denoise
from model.sampling.guidance import generate_guidance
from model.sampling.prefill import Prefix, prefill

HAS_CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_CUDA else "cpu")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not (HAS_CUDA or os.environ.get("TRITON_INTERPRET") == "1"),
    reason="needs triton, and a CUDA device or TRITON_INTERPRET=1",
)
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not HAS_CUDA, reason="no CUDA device is here")]
FORMATS: list[Any] = [
    (torch.float32, "off", 1e-5),
    (torch.float32, "int8", 1e-5),
    pytest.param(torch.float16, "off", 2e-3, marks=ON_GPU),  # the interpreter rounds to half precision otherwise
    pytest.param(torch.bfloat16, "off", 1e-2, marks=ON_GPU),
    pytest.param(torch.bfloat16, "fp8", 2e-2, marks=ON_GPU),
    pytest.param(torch.bfloat16, "int8", 1e-2, marks=ON_GPU),
]
"""Dtype, format of the experts' weights, and the tolerance of a result relative to its greatest number."""
SHAPES: list[Any] = [
    (5, 3, 64, 48, 40),
    (20, 12, 48, 80, 300),
    *(pytest.param(*each, marks=ON_GPU) for each in ((32, 32, 2048, 1536, 32768), (128, 128, 2048, 384, 2001))),
    pytest.param(32, 7, 768, 2048, 5000, marks=ON_GPU),
]
"""Experts, those of them that have rows, columns and rows of a weight, and sorted rows."""


@pytest.fixture(autouse=True)
def seed(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    if not HAS_CUDA:
        monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())


def projection(experts: int, columns: int, features: int, dtype: torch.dtype, form: str) -> StackedLinear:
    weight = (torch.randn(experts, features, columns, device=DEVICE) * columns**-0.5).to(dtype)
    if form == "off":
        plain = StackedProjection(experts, columns, features).requires_grad_(False)
        plain.weight.data = weight
        return plain
    from model.checkpoint.quantization import LAYERS

    made = QuantizedExperts(LAYERS[form], experts, features, columns, DEVICE)
    made.fill(weight)
    return made


def in_its_format(stacked: StackedLinear, x: Tensor) -> Rows:
    from model.backends.kernels import rows

    return x if stacked.input_format is None else rows.quantized(x, stacked.input_format)


def ends_of(rows: int, experts: int, used: int) -> Tensor:
    """The ends of uneven runs of rows, one for each expert. Only `used` experts have rows."""
    numbers = torch.randperm(experts)[:used][torch.randint(0, used, (rows,)).sort().values]
    return torch.bincount(numbers, minlength=experts).cumsum(0).to(DEVICE, torch.int32)


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).abs().max() / expected.float().abs().max())


@pytest.mark.parametrize("own_kernel", [True, pytest.param(False, marks=ON_GPU)])
@pytest.mark.parametrize(("dtype", "form", "tolerance"), FORMATS)
@pytest.mark.parametrize(("experts", "used", "columns", "features", "rows"), SHAPES)
def test_a_grouped_product_is_that_of_each_expert(
    experts: int,
    used: int,
    columns: int,
    features: int,
    rows: int,
    dtype: torch.dtype,
    form: str,
    tolerance: float,
    own_kernel: bool,
) -> None:
    from model.backends.experts import multiply
    from model.backends.kernels.grouped_product import grouped_product

    stacked = projection(experts, columns, features, dtype, form)
    if own_kernel and form == "fp8" and stacked.is_emulated:
        pytest.skip("this GPU has no units for float8")
    x, ends = torch.randn(rows, columns, device=DEVICE).to(dtype), ends_of(rows, experts, used)
    given = in_its_format(stacked, x)
    if own_kernel:
        found = grouped_product(given, stacked.weight, stacked.scale, ends)
    else:
        found = multiply(stacked, given, ends)
    parts, first = [], 0
    for expert, end in enumerate(ends.tolist()):
        if isinstance(given, QuantizedRows) and isinstance(stacked, QuantizedExperts):
            own = QuantizedRows(given.values[first:end], given.scales[first:end], dtype)
            parts.append(stacked.expert(expert).multiply(own) if end > first else x.new_empty(0, features))
        else:
            parts.append(stacked.multiply_expert(expert, x[first:end]))
        first = end
    assert found.shape == (rows, features) and found.dtype == dtype
    assert difference(found, torch.cat(parts)) < tolerance


def test_pytorchs_grouped_product_gets_each_experts_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same call as on a GPU. PyTorch also multiplies in groups on a CPU, one after another."""
    from model.backends import experts

    monkeypatch.setattr(experts, "_has_grouped_product", lambda weight, dtype: True)
    stacked, ends = projection(6, 32, 16, torch.float32, "off"), torch.tensor([0, 4, 4, 9, 9, 10], dtype=torch.int32)
    x, first = torch.randn(10, 32), 0
    found = experts.multiply(stacked, x.to(DEVICE), ends.to(DEVICE)).cpu()
    for expert, end in enumerate(ends.tolist()):
        torch.testing.assert_close(found[first:end], x[first:end] @ stacked.weight[expert].cpu().T)
        first = end


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=ON_GPU)])
@pytest.mark.parametrize(("tokens", "width"), [(7, 48), (3, 1500)])
def test_the_weighted_sum_has_the_bits_of_the_plain_one(tokens: int, width: int, dtype: torch.dtype) -> None:
    from model.backends.kernels.grouped_product import weighted_sum

    chosen = torch.stack([torch.randperm(9)[:4] for _ in range(tokens)]).to(DEVICE)
    routing = Routing.of(torch.rand(tokens, 4, device=DEVICE).to(dtype), chosen, 9)
    rows = torch.randn(tokens * 4, width, device=DEVICE).to(dtype)
    found, plain = weighted_sum(rows, routing.places, routing.weights), routing.weighted_sum(rows)
    assert difference(found, plain) < (1e-6 if dtype == torch.float32 else 5e-3)


@pytest.mark.parametrize("renormalised", [True, False])
@pytest.mark.parametrize(("experts", "top_k"), [(10, 8), (128, 8), (5, 3), (300, 1)])
def test_a_token_chooses_the_experts_of_the_plain_path(experts: int, top_k: int, renormalised: bool) -> None:
    from model.backends.kernels.one_token_experts import choose_experts

    logits = torch.randn(experts, device=DEVICE)
    best = logits.softmax(-1).topk(top_k)
    expected = best.values / best.values.sum() if renormalised else best.values
    chosen, weights = torch.zeros(top_k, dtype=torch.int32, device=DEVICE), torch.zeros(top_k, device=DEVICE)
    choose_experts(logits, chosen, weights, renormalised=renormalised)
    assert chosen.tolist() == best.indices.tolist()
    torch.testing.assert_close(weights, expected)


def test_weights_that_are_not_loaded_choose_experts_that_exist() -> None:
    from model.backends.kernels.one_token_experts import choose_experts

    chosen, weights = torch.zeros(3, dtype=torch.int32, device=DEVICE), torch.zeros(3, device=DEVICE)
    choose_experts(torch.full((5,), float("nan"), device=DEVICE), chosen, weights, renormalised=True)
    assert 0 <= int(chosen.min()) <= int(chosen.max()) < 5


def network(dtype: torch.dtype, quantization: str, layers: int = 2) -> SenseNovaU1:
    """A mixture whose understanding tower has more experts than a token uses; the same every time."""
    shape = {"hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 48, "vocabulary": 300, "vision_hidden": 16}
    fields = config_fields(layers=layers, convolutional_head=False, experts=(20, 9), **shape)
    torch.manual_seed(0)
    return random_network(parse_config(fields, "random"), DEVICE, dtype, QUANTIZATIONS[quantization])


def prefix_of(network: SenseNovaU1, tokens: int, room: int) -> Prefix:
    ids = torch.arange(tokens, device=DEVICE) % 300
    sequence = TokenSequence(ids, text_positions(0, tokens, DEVICE), (Segment(tokens, causal=True),), tokens)
    with torch.inference_mode():
        return prefill(network, sequence, [], room)


NETWORKS: list[Any] = [
    (torch.float32, "off", 1e-5),
    (torch.float32, "int8-all", 5e-2),
    pytest.param(torch.bfloat16, "off", 5e-2, marks=ON_GPU),
    pytest.param(torch.bfloat16, "fp8-all", 2e-1, marks=ON_GPU),
    pytest.param(torch.bfloat16, "int8-all", 1e-1, marks=ON_GPU),
]
"""Dtype, quantization, and the tolerance of numbers that were rounded in another order. In half precision a token near
the border between two experts may get another one, so few such tokens are compared."""


@pytest.mark.parametrize(("dtype", "quantization", "tolerance"), NETWORKS)
def test_a_prefix_and_a_token_are_the_plain_ones(dtype: torch.dtype, quantization: str, tolerance: float) -> None:
    from model.backends.cuda import FusedOperations
    from model.backends.decode import DecodePass

    results = []
    for fused in (False, True):
        made = network(dtype, quantization, layers=1)
        set_plain_operations(made)
        if fused:
            made.und.operations = FusedOperations(GpuAttention(groups_heads=HAS_CUDA))
        prefix = prefix_of(made, 6, 1)
        with torch.inference_mode():
            if fused:
                decode_pass = DecodePass(made, None, as_graph=HAS_CUDA)
                ((_, logits),) = decode_pass(prefix, torch.tensor([5], device=DEVICE))
            else:
                _, logits = Backend(made).forward_token(prefix, torch.tensor(5, device=DEVICE))
        results.append((prefix.last_hidden, logits))
    for found, expected in zip(results[1], results[0], strict=True):
        assert difference(found, expected) < tolerance


@pytest.mark.skipif(HAS_CUDA, reason="the interpreter's counts of what was read")
def test_a_token_reads_only_its_own_experts() -> None:
    """The weights of other experts are NaN."""
    from model.backends.decode import DecodePass

    made = network(torch.float32, "off", layers=1)
    prefix = prefix_of(made, 6, 1)
    run = DecodePass(made, None, as_graph=False)
    block: Any = made.und.blocks[0]
    experts: Experts = block.mlp
    with torch.inference_mode():
        ((_, expected),) = run(prefix, torch.tensor([5]))
        others = torch.ones(20, dtype=torch.bool)
        others[run._operations._chosen.long()] = False
        assert int(others.sum()) == 12
        for stacked in experts.projections():
            stacked.weight[others] = float("nan")
        ((_, found),) = run(prefix, torch.tensor([5]))
    assert torch.equal(found, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_CUDA, reason="no CUDA device is here")
@pytest.mark.parametrize(("dtype", "quantization", "tolerance"), [(torch.float32, "off", 1e-4)])
def test_captured_steps_are_the_plain_ones(dtype: torch.dtype, quantization: str, tolerance: float) -> None:
    """More steps than it takes to capture a graph, and a second picture, which has the same bytes."""
    from config.settings import ImageSettings

    settings, size = ImageSettings(num_steps=5), (256, 256)

    def draw(backend: Backend) -> Iterator[Tensor]:
        prefixes: dict[Branch, Prefix] = {
            "condition": prefix_of(backend.network, 30, 64),
            "unconditional": prefix_of(backend.network, 12, 64),
        }
        steps = denoise(backend, prefixes, generate_guidance(settings), size, 42, settings)
        return (step.predicted for step in steps)

    plain = list(draw(select_backend(network(dtype, quantization), enforce_eager=True)))
    backend = select_backend(network(dtype, quantization), enforce_eager=False)
    assert backend.denoises_async and backend.decodes_async
    first, second = list(draw(backend)), list(draw(backend))
    assert difference(first[0], plain[0]) < tolerance
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
