"""On a CUDA device: the golden cases, and the number formats people use there."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from model import (
    Answer,
    AnswerRequest,
    Engine,
    GenerateRequest,
    ImageSettings,
    Picture,
    Statistics,
    TextSettings,
    Trace,
)
from model.backends.gpu import KERNELS, GpuAttention
from model.backends.select import select_backend
from model.checkpoint.quantization import QUANTIZATIONS, quantize_network
from model.checkpoint.random_weights import config_fields, random_network
from model.errors import RankError
from model.events import Branch, DenoisingStep
from model.inputs.image_tensors import to_preview
from model.inputs.token_sequence import TokenSequence
from model.network.attention import Segment, attend
from model.network.configuration import parse_config
from model.network.rope import text_positions
from model.network.sensenova import SenseNovaU1
from model.sampling.backend import Backend
from model.sampling.decode import decode, greedy
from model.sampling.denoise import Step, denoise
from model.sampling.guidance import generate_guidance
from model.sampling.prefill import Prefix, prefill
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
    trace = Trace()
    list(parity_engine(case["checkpoint"], "cuda").run(request, trace))
    assert relative_difference(trace.pictures[0], golden(case, "image")) < 2e-3


@pytest.mark.parametrize("case", cases("describe", "chat"), ids=case_id)
def test_text(case: Case, parity_engine: Callable[[str, str], Engine]) -> None:
    trace = Trace()
    events = parity_engine(case["checkpoint"], "cuda").run(request_of(case), trace)
    answer = next(event for event in events if isinstance(event, Answer))
    assert list(answer.token_ids) == golden(case, "new_ids")[0].tolist()
    assert trace.first_logits is not None
    assert relative_difference(trace.first_logits, golden(case, "first_logits")[0]) < 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: str, tiny_checkpoint: Path) -> None:
    engine = Engine.load(tiny_checkpoint, device="cuda", dtype=dtype)
    trace = Trace()
    events = list(engine.run(GenerateRequest("a cat", ImageSettings(size="256x256", num_steps=4)), trace))
    assert torch.isfinite(trace.pictures[0]).all()
    statistics = events[-1]
    assert isinstance(statistics, Statistics)
    assert 0 < statistics.peak_memory < 2**30


def test_one_row_goes_through_a_kernel_whose_bytes_repeat() -> None:
    """cuDNN's, which a picture has, rounds otherwise, and not always in the same way."""
    q = torch.randn(1, 32, 1, 128, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(1, 8, 2000, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        expected = scaled_dot_product_attention(q, k, v, enable_gqa=True)
    one, kernel = [Segment(1, causal=True)], GpuAttention(groups_heads=True)
    assert torch.equal(attend(q, k, v, one, kernel), expected)
    with sdpa_kernel(list(KERNELS), set_priority=True):
        assert torch.equal(attend(q, k, v, one, kernel), expected)


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
    attend(q, k, v, [Segment(rows, causal)], GpuAttention(groups_heads=True))
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


def _network(dtype: torch.dtype, quantized: str = "off") -> SenseNovaU1:
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
    quantize_network(network, QUANTIZATIONS[quantized])
    return network


def _prefix(network: SenseNovaU1, tokens: int, room: int) -> Prefix:
    ids = torch.arange(tokens, device="cuda") % 300
    sequence = TokenSequence(ids, text_positions(0, tokens, ids.device), (Segment(tokens, causal=True),), tokens)
    with torch.inference_mode():
        return prefill(network, sequence, [], room)


TOLERANCES = [
    (torch.float32, "off", 1e-5),
    (torch.float16, "off", 1e-2),
    (torch.bfloat16, "off", 5e-2),
    (torch.bfloat16, "fp8-all", 2e-1),
    (torch.bfloat16, "int8-all", 1e-1),
    (torch.float32, "int8-all", 5e-2),
]
"""Largest difference over largest magnitude of numbers that were rounded in another order, through three layers."""
LATER_STEPS = 10
"""How much more the last of five steps may differ, each of which starts from the one before."""


@pytest.mark.parametrize(("dtype", "quantized", "tolerance"), TOLERANCES)
@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((256, 256), ImageSettings(num_steps=5)),
        ((320, 192), ImageSettings(num_steps=5, cfg_scale=1.0)),
        ((256, 256), ImageSettings(num_steps=5, timestep_shift=1.0, cfg_interval=(0.3, 0.7))),
        ((2048, 1056), ImageSettings(num_steps=5)),
        ((256, 256), ImageSettings(num_steps=12, cfg_every=2)),
        ((256, 256), ImageSettings(num_steps=9, cfg_stop=1.0)),
        ((512, 256), ImageSettings(num_steps=12, half_size_until=0.3)),
    ],
    ids=["together", "one branch", "interval", "apart", "every second", "ended", "half size"],
)
def test_fused_steps_are_the_plain_ones(
    dtype: torch.dtype, quantized: str, tolerance: float, size: tuple[int, int], settings: ImageSettings
) -> None:
    """More steps than it takes to capture a graph, and a second picture on the same runtime."""
    tokens = size[0] * size[1] // 32**2

    def draw(backend: Backend) -> list[torch.Tensor]:
        prefixes: dict[Branch, Prefix] = {
            "condition": _prefix(backend.network, 300, tokens),
            "unconditional": _prefix(backend.network, 12, tokens),
        }
        return [step.predicted for step in denoise(backend, prefixes, generate_guidance(settings), size, 42, settings)]

    plain = draw(select_backend(_network(dtype, quantized), enforce_eager=True))
    backend = select_backend(_network(dtype, quantized), enforce_eager=False)
    fused, again = draw(backend), draw(backend)
    assert len(fused) == len(plain) == settings.num_steps
    assert relative_difference(fused[0], plain[0]) < tolerance
    assert all(relative_difference(*pair) < LATER_STEPS * tolerance for pair in zip(fused, plain, strict=True))
    assert all(torch.equal(*pair) for pair in zip(fused, again, strict=True))


@pytest.mark.parametrize(("dtype", "quantized", "tolerance"), TOLERANCES)
@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((256, 256), ImageSettings(num_steps=7, cache="fast", cache_taylor_order=1)),
        ((256, 256), ImageSettings(num_steps=7, cache="fast", timestep_shift=1.0, cfg_interval=(0.2, 0.8))),
        ((2048, 1056), ImageSettings(num_steps=7, cache="fast", cache_last_layers=1)),
    ],
    ids=["together", "interval", "apart"],
)
def test_fused_cached_steps_are_the_plain_ones(
    dtype: torch.dtype, quantized: str, tolerance: float, size: tuple[int, int], settings: ImageSettings
) -> None:
    """Where both skip the same layers; each part of a step is a graph of its own."""
    pytest.importorskip("cache_dit")
    from model.sampling.step_cache import StepCache, StepCacheConfig

    tokens = size[0] * size[1] // 32**2
    assert settings.cache_options is not None
    caching = StepCacheConfig.of(settings.cache_options, _network(dtype, "off").config.transformer.layers)
    mask = [1, 1, 1, 0, 0, 1, 0]
    decision = replace(caching.cache_config, steps_computation_mask=mask, steps_computation_policy="static")
    caching = replace(caching, cache_config=decision)

    def draw(backend: Backend) -> list[Step]:
        prefixes: dict[Branch, Prefix] = {
            "condition": _prefix(backend.network, 300, tokens),
            "unconditional": _prefix(backend.network, 12, tokens),
        }
        cache = StepCache(caching)
        return list(denoise(backend, prefixes, generate_guidance(settings), size, 42, settings, cache))

    plain = draw(select_backend(_network(dtype, quantized), enforce_eager=True))
    backend = select_backend(_network(dtype, quantized), enforce_eager=False)
    fused, again = draw(backend), draw(backend)
    assert [step.layers for step in fused] == [step.layers for step in plain]
    assert len({step.layers["condition"] for step in fused}) == 2
    assert relative_difference(fused[0].predicted, plain[0].predicted) < tolerance
    for ours, theirs in zip(fused, plain, strict=True):
        assert relative_difference(ours.predicted, theirs.predicted) < LATER_STEPS * tolerance
    assert all(torch.equal(one.predicted, other.predicted) for one, other in zip(fused, again, strict=True))


def test_cached_pictures_are_the_same_in_a_row_and_after_a_cancelled_one(tiny_checkpoint: Path) -> None:
    pytest.importorskip("cache_dit")
    engine = Engine.load(tiny_checkpoint, device="cuda")
    settings = ImageSettings(size="256x256", num_steps=12, cache="fast", cache_threshold=0.5, cache_warmup_steps=2)
    request = GenerateRequest("a cat", settings)

    def drawn() -> Picture:
        return next(event for event in engine.run(request) if isinstance(event, Picture))

    first, second = drawn(), drawn()
    for event in engine.run(GenerateRequest("a dog", settings)):
        if isinstance(event, DenoisingStep) and event.step == 6:
            break
    third = drawn()
    assert first.caching and first.caching.layers_computed < first.caching.layers
    assert first.image.tobytes() == second.image.tobytes() == third.image.tobytes()


def test_a_picture_that_is_given_up_changes_nothing() -> None:
    """The device is at a step that nobody will see, and the prefixes are read again at once."""
    settings, backend = ImageSettings(num_steps=6), select_backend(_network(torch.bfloat16), enforce_eager=False)
    prefixes: dict[Branch, Prefix] = {
        "condition": _prefix(backend.network, 300, 64),
        "unconditional": _prefix(backend.network, 12, 64),
    }

    def steps() -> Iterator[Step]:
        return denoise(backend, prefixes, generate_guidance(settings), (256, 256), 42, settings)

    whole = [step.tokens for step in steps()]
    for count in (1, 3, 5):
        drawing = steps()
        for _ in range(count):
            next(drawing)
        del drawing
        assert all(torch.equal(*pair) for pair in zip((step.tokens for step in steps()), whole, strict=True))


def test_a_preview_made_beside_the_next_step_is_the_predicted_picture(tiny_checkpoint: Path) -> None:
    engine = Engine.load(tiny_checkpoint, device="cuda")
    trace = Trace()
    request = GenerateRequest("a cat", ImageSettings(size="256x256", num_steps=4), preview_every=1, preview_size=80)
    steps = [event for event in engine.run(request, trace) if isinstance(event, DenoisingStep)]
    torch.cuda.synchronize()
    assert [step.preview for step in steps] == [to_preview(predicted, 80) for predicted in trace.predicted]


@pytest.mark.parametrize(("dtype", "quantized", "tolerance"), TOLERANCES)
def test_a_captured_token_is_a_plain_one(dtype: torch.dtype, quantized: str, tolerance: float) -> None:
    """Past the end of the cache's first memory, behind two prefixes in turn, and past the table of rotations."""
    from model.backends.decode import MIN_POSITIONS  # needs Triton

    plain, fused = (select_backend(_network(dtype, quantized), enforce_eager=eager) for eager in (True, False))
    lengths = (1, 333, MIN_POSITIONS)
    pairs = [[_prefix(backend.network, length, 1) for backend in (plain, fused)] for length in lengths]
    for number in range(150):
        kept = []
        for prefixes in pairs:
            logits = []
            for backend, prefix in zip((plain, fused), prefixes, strict=True):
                prefix.cache.reserve(1)
                with torch.inference_mode():
                    hidden, next_logits = backend.forward_token(prefix, torch.tensor(number, device="cuda"))
                prefix.append([number], hidden)
                logits.append(next_logits)
            kept.append(logits)
        for plain_logits, fused_logits in kept:  # only now: what was returned must not change meanwhile
            assert relative_difference(fused_logits, plain_logits) < tolerance
    if (dtype, quantized) == (torch.float32, "off"):  # eight-bit weights: only the plain network quantizes inputs
        for prefixes in pairs:
            texts = [
                list(decode(backend, prefix, greedy, 99, ()))
                for backend, prefix in zip((plain, fused), prefixes, strict=True)
            ]
            assert texts[0] == texts[1]


@pytest.mark.parametrize(("dtype", "quantized", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_large_picture_in_halves_is_the_plain_one(
    dtype: torch.dtype, quantized: str, tolerance: float, scale: float
) -> None:
    from model.backends.cuda import HALVES_FROM_TOKENS

    size, settings = (2048, 1568), ImageSettings(num_steps=4, cfg_scale=scale)
    tokens = size[0] * size[1] // 32**2
    assert tokens > HALVES_FROM_TOKENS and tokens % 256  # the halves differ

    def draw(eager: bool) -> list[torch.Tensor]:
        backend = select_backend(_network(dtype, quantized), enforce_eager=eager)
        prefixes: dict[Branch, Prefix] = {
            "condition": _prefix(backend.network, 300, tokens),
            "unconditional": _prefix(backend.network, 12, tokens),
        }
        return [step.predicted for step in denoise(backend, prefixes, generate_guidance(settings), size, 42, settings)]

    differences = [relative_difference(*pair) for pair in zip(draw(False), draw(True), strict=True)]
    assert differences[0] < tolerance
    assert max(differences) < LATER_STEPS * tolerance


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_halves_in_memory_that_layers_share(scale: float) -> None:
    """Both lanes find each layer's prefix there, and neither writes over what the other one still attends to: many
    steps give the same as with memory for each layer. The weights are all there, so that nothing else keeps the lanes
    in step."""
    size, settings = (2048, 1568), ImageSettings(num_steps=12, cfg_scale=scale)
    tokens = size[0] * size[1] // 32**2

    def draw(layer_by_layer: bool) -> list[torch.Tensor]:
        backend = select_backend(_network(torch.bfloat16), enforce_eager=False)
        backend.layer_by_layer = layer_by_layer
        room = backend.room_for_picture(tokens)
        prefixes: dict[Branch, Prefix] = {
            "condition": _prefix(backend.network, 3000, room),
            "unconditional": _prefix(backend.network, 12, room),
        }
        with torch.inference_mode():
            denoise_states = backend.denoise_states(prefixes, tokens)
        assert all(state.cache.layers_share == layer_by_layer for state in denoise_states.values())
        return [
            step.predicted for step in denoise(backend, denoise_states, generate_guidance(settings), size, 42, settings)
        ]

    assert all(torch.equal(*pair) for pair in zip(draw(True), draw(False), strict=True))


@pytest.mark.parametrize("name", ["u1", "u15", "a3b"])
def test_fused_checkpoints_are_the_plain_ones(name: str, parity_checkpoint: Callable[[str], Path]) -> None:
    """Experts, too."""
    request = GenerateRequest("a cat", ImageSettings(size="256x256", num_steps=4, think=True, max_think_tokens=16))
    pictures = []
    for eager in (True, False):
        engine = Engine.load(parity_checkpoint(name), device="cuda", dtype="float32", enforce_eager=eager)
        trace = Trace()
        list(engine.run(request, trace))
        pictures.append(trace.pictures[0])
    assert relative_difference(pictures[1], pictures[0]) < 2e-3


def test_reading_ahead_leaves_no_trace() -> None:
    """A text that ended by a token of `stop`: nothing of that token is part of the prefix."""
    backend = select_backend(_network(torch.float32), enforce_eager=False)
    prefix = _prefix(backend.network, 20, 64)
    whole = list(decode(backend, prefix.fork(), greedy, 30, ()))
    with torch.inference_mode():
        prefix.cache.truncate(20)
    stopped = list(decode(backend, prefix, greedy, 30, whole[10:11]))
    end = whole.index(whole[10])
    assert stopped == whole[: end + 1]
    assert prefix.cache.length == 20 + end
    assert prefix.written == whole[:end]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("setting", ["tensor_parallel_size", "cfg_parallel_size", "gpus"])
def test_two_gpus(setting: str, tiny_checkpoint: Path) -> None:
    """The same pictures and the same words, from captured passes; a lost rank is told of, and can be replaced."""
    draw = GenerateRequest("a cat", ImageSettings(size="256x256", num_steps=6))
    ask = AnswerRequest("hello", settings=TextSettings(max_tokens=40))
    alone = Engine.load(tiny_checkpoint, device="cuda", dtype="float32")
    drawn_alone = Trace()
    list(alone.run(draw, drawn_alone))
    theirs = drawn_alone.pictures[0]
    words = next(event for event in alone.run(ask) if isinstance(event, Answer)).token_ids
    for _ in range(2):
        two: dict[str, Any] = {setting: 2}
        shared = Engine.load(tiny_checkpoint, device="cuda", dtype="float32", **two)
        drawn = Trace()
        list(shared.run(draw, drawn))
        ours = drawn.pictures[0]
        assert (ours - theirs).norm() / theirs.norm() < 2e-3
        assert next(event for event in shared.run(ask) if isinstance(event, Answer)).token_ids == words
        (child,) = shared._ranks._connections.processes.values()  # type: ignore[union-attr]
        began = time.monotonic()
        with pytest.raises(RankError, match="rank 1 of 2 was killed") as caught:  # and kept, with all its frames
            for event in shared.run(GenerateRequest("a cat", ImageSettings(size="256x256", num_steps=1000))):
                if isinstance(event, DenoisingStep) and event.step == 20:
                    child.kill()
        assert time.monotonic() - began < 30
        shared.close()
        assert caught.value.__traceback__ is not None
