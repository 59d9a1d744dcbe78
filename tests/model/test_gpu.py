"""On a CUDA device: the golden cases, and the number formats people use there."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model import Answer, Engine, GenerateRequest, ImageSettings, Picture, Statistics
from model.events import Branch
from model.network.attention import Segment, attend
from model.network.configuration import parse_config
from model.network.rope import text_positions
from model.network.sensenova import SenseNovaU1
from model.placement.acceleration import accelerated
from model.sampling.decode import decode, greedy
from model.sampling.denoise import denoise
from model.sampling.guidance import generate_guidance
from model.sampling.prefix import Prefix, read_prefix
from model.sequences.sequence import TokenSequence
from model.weights.quantize import quantize_network
from model.weights.synthetic import config_fields, random_network
from tests.parity.cases import Case, case_id, cases, golden, relative_difference, request_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]


@pytest.mark.parametrize("case", cases("t2i", "edit"), ids=case_id)
def test_picture_from_the_cpus_noise(case: Case, parity_engine: Callable[[str, str], Engine]) -> None:
    request = request_of(case)
    assert isinstance(request.settings, ImageSettings)
    request = type(request)(**{**vars(request), "settings": request.settings.model_copy(update={"noise": "cpu"})})
    picture = next(
        event for event in parity_engine(case["checkpoint"], "cuda").run(request) if isinstance(event, Picture)
    )
    assert relative_difference(picture.tensor, golden(case, "image")) < 2e-3


@pytest.mark.parametrize("case", cases("describe", "chat"), ids=case_id)
def test_text(case: Case, parity_engine: Callable[[str, str], Engine]) -> None:
    events = parity_engine(case["checkpoint"], "cuda").run(request_of(case))
    answer = next(event for event in events if isinstance(event, Answer))
    assert list(answer.token_ids) == golden(case, "new_ids")[0].tolist()
    assert relative_difference(answer.first_logits, golden(case, "first_logits")[0]) < 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: str, tiny_checkpoint: Path) -> None:
    engine = Engine.load(tiny_checkpoint, device="cuda", dtype=dtype)
    events = list(engine.run(GenerateRequest("a cat", ImageSettings(size="256x256", num_steps=4))))
    picture = next(event for event in events if isinstance(event, Picture))
    assert torch.isfinite(picture.tensor).all()
    statistics = events[-1]
    assert isinstance(statistics, Statistics)
    assert 0 < statistics.peak_memory < 2**30


@pytest.mark.parametrize("cudnn", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("rows", "causal"), [(4096, False), (256, True)])
def test_no_scores_are_stored(dtype: torch.dtype, cudnn: bool, rows: int, causal: bool) -> None:
    """At the 8B's shape, over 8,500 keys; heads × N × M scores would take gigabytes."""
    q = torch.randn(1, rows, 32, 128, device="cuda", dtype=dtype).transpose(1, 2)
    k, v = (torch.randn(1, 8, 8500, 128, device="cuda", dtype=dtype) for _ in range(2))
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(cudnn)
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    attend(q, k, v, [Segment(rows, causal)])
    torch.backends.cuda.enable_cudnn_sdp(before)
    assert torch.cuda.max_memory_allocated() - held < 300 * 2**20


@pytest.mark.parametrize("name", ["u1", "u15", "a3b"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_same_seed_same_bytes(name: str, dtype: str, parity_checkpoint: Callable[[str], Path]) -> None:
    made = []
    for _ in range(2):
        engine = Engine.load(parity_checkpoint(name), device="cuda", dtype=dtype)
        events = engine.run(GenerateRequest("a cat", ImageSettings(size="512x512", num_steps=6, think=True)))
        made.append(next(event.image.tobytes() for event in events if isinstance(event, Picture)))
    assert made[0] == made[1]


def _network(dtype: torch.dtype, quantized: tuple[str, ...] = ()) -> SenseNovaU1:
    """Random, with norms that do something; the same every time."""
    fields = config_fields(
        hidden=256,
        layers=3,
        heads=8,
        kv_heads=2,
        head_dim=64,
        ffn=640,
        vocabulary=300,
        vision_hidden=64,
        convolutional_head=False,  # in float32 the convolutions of the other head round to TF32
    )
    torch.manual_seed(0)
    network = random_network(parse_config(fields, "random"), torch.device("cuda"), dtype)
    for name, parameter in network.named_parameters():
        if name.endswith("norm.weight"):
            parameter.normal_(1, 0.2)
    quantize_network(network, quantized)
    return network


def _prefix(network: SenseNovaU1, tokens: int, room: int) -> Prefix:
    ids = torch.arange(tokens, device="cuda") % 300
    sequence = TokenSequence(ids, text_positions(0, tokens, ids.device), (Segment(tokens, causal=True),), tokens)
    with torch.inference_mode():
        return read_prefix(network, sequence, [], room)


TOLERANCES = [(torch.float32, (), 1e-5), (torch.bfloat16, (), 3e-2), (torch.bfloat16, ("gen", "und"), 8e-2)]
"""Of numbers that were rounded in another order, through three layers."""


@pytest.mark.parametrize(("dtype", "quantized", "tolerance"), TOLERANCES)
@pytest.mark.parametrize(("size", "scale"), [((256, 256), 4.0), ((320, 192), 1.0), ((2048, 1056), 4.0)])
def test_fused_steps_are_the_plain_ones(
    dtype: torch.dtype, quantized: tuple[str, ...], tolerance: float, size: tuple[int, int], scale: float
) -> None:
    """More steps than it takes to capture a graph; sizes whose branches go together and apart; two pictures in turn."""
    settings = ImageSettings(num_steps=5, cfg_scale=scale)
    tokens = size[0] * size[1] // 32**2
    predictions = []
    for eager in (True, False, False):
        network = _network(dtype, quantized)
        runtime = accelerated(network, enforce_eager=eager)
        prefixes: dict[Branch, Prefix] = {
            "condition": _prefix(network, 300, tokens),
            "unconditional": _prefix(network, 12, tokens),
        }
        steps = denoise(runtime, prefixes, generate_guidance(settings), size, 42, settings)
        predictions.append([step.predicted for step in steps])
    plain, fused, again = predictions
    assert len(fused) == len(plain) == 5
    assert relative_difference(fused[0], plain[0]) < tolerance
    if dtype == torch.float32:
        assert all(relative_difference(*pair) < 100 * tolerance for pair in zip(fused, plain, strict=True))
    assert all(torch.equal(*pair) for pair in zip(fused, again, strict=True))


@pytest.mark.parametrize(("dtype", "quantized", "tolerance"), TOLERANCES)
def test_a_captured_token_is_a_plain_one(dtype: torch.dtype, quantized: tuple[str, ...], tolerance: float) -> None:
    """Over the end of the cache's first memory, and behind two prefixes in turn."""
    plain, fused = (accelerated(_network(dtype, quantized), enforce_eager=eager) for eager in (True, False))
    for length in (1, 333):
        prefixes = [_prefix(runtime.network, length, 1) for runtime in (plain, fused)]
        for number in range(200):
            logits = []
            for runtime, prefix in zip((plain, fused), prefixes, strict=True):
                prefix.cache.reserve(1)
                with torch.inference_mode():
                    hidden, next_logits = runtime.read_token(prefix, torch.tensor(number, device="cuda"))
                prefix.keep(number, hidden)
                logits.append(next_logits)
            assert relative_difference(logits[1], logits[0]) < tolerance
        assert prefixes[0].next_position == prefixes[1].next_position
        if dtype == torch.float32:
            texts = [
                list(decode(runtime, prefix, greedy, 100, ()))
                for runtime, prefix in zip((plain, fused), prefixes, strict=True)
            ]
            assert texts[0] == texts[1]


def test_reading_ahead_leaves_no_trace() -> None:
    """A text that ended by a token of `stop`: nothing of that token is part of the prefix."""
    runtime = accelerated(_network(torch.float32), enforce_eager=False)
    prefix = _prefix(runtime.network, 20, 64)
    whole = list(decode(runtime, prefix.fork(), greedy, 30, ()))
    prefix.cache.truncate(20)
    stopped = list(decode(runtime, prefix, greedy, 30, whole[10:11]))
    end = whole.index(whole[10])
    assert stopped == whole[: end + 1]
    assert prefix.cache.length == 20 + end
    assert prefix.written == whole[:end]
