"""Guidance parallelism with `splits_und`: all ranks write text, copies denoise branches; on a CPU.

Two ranks can share the heads of the parity checkpoints (tests/parity); four can share those of the one here.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from model import (
    Answer,
    AnswerRequest,
    DenoisingStep,
    EditRequest,
    Engine,
    GenerateRequest,
    ImageSettings,
    TextSettings,
    Trace,
)
from model.checkpoint.random_weights import TINY_SETTINGS, byte_tokenizer, config_fields, write_random_checkpoint
from model.events import PrefixRead, ThinkText
from model.requests import Request

pytestmark = pytest.mark.slow


def ask(question: str) -> AnswerRequest:
    return AnswerRequest(question, settings=TextSettings(max_tokens=4))


@pytest.fixture(scope="module")
def four_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose heads four ranks can share."""
    folder = tmp_path_factory.mktemp("heads") / "checkpoint"
    fields = config_fields(
        hidden=64, layers=2, heads=8, kv_heads=4, head_dim=16, ffn=96, vocabulary=301, vision_hidden=32
    )
    write_random_checkpoint(folder, fields, dtype=torch.float32, tokenizer=byte_tokenizer(), recommended=TINY_SETTINGS)
    return folder


@pytest.fixture(scope="module")
def alone(four_heads: Path) -> Engine:
    return Engine.load(four_heads, device="cpu", dtype="float32")


@pytest.fixture(scope="module", params=[2, 4], ids=["1x2", "2x2"])
def parallel(request: pytest.FixtureRequest, four_heads: Path) -> Iterator[Engine]:
    """Ranks that prefill and write together, and denoise on two copies."""
    engine = Engine.load(four_heads, device="cpu", dtype="float32", gpus=request.param)
    yield engine
    engine.close()


THINKING = GenerateRequest(
    "a cat", ImageSettings(size="160x96", num_steps=3, num_images=2, think=True, max_think_tokens=6, cfg_scale=4)
)
INPUTS = (Image.linear_gradient("L").resize((96, 64)), Image.radial_gradient("L").resize((64, 64)))
REQUESTS: dict[str, Request] = {
    "pictures behind think text": THINKING,
    "a picture without guidance": replace(THINKING, settings=THINKING.settings.model_copy(update={"cfg_scale": 1.0})),
    "an edit with three branches": EditRequest(
        "make it red", INPUTS, ImageSettings(size="96x96", num_steps=3, cfg_scale=4, img_cfg_scale=2)
    ),
    "a picture in fewer passes": GenerateRequest(
        "a cat",
        ImageSettings(size="128x64", num_steps=9, cfg_scale=4, cfg_every=3, cfg_stop=0.5, half_size_until=0.2),
    ),
    "an answer": AnswerRequest("hello", INPUTS[:1], settings=TextSettings(max_tokens=8)),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_text_by_all_ranks_and_pictures_by_copies(name: str, parallel: Engine, alone: Engine) -> None:
    for _ in range(2):  # the second time behind cached prefixes
        traces = Trace(), Trace()
        own, expected = list(parallel.run(REQUESTS[name], traces[0])), list(alone.run(REQUESTS[name], traces[1]))
        for kind in (ThinkText, Answer):
            tokens = [[event.token_ids for event in events if isinstance(event, kind)] for events in (own, expected)]
            assert tokens[0] == tokens[1]
        for picture, other in zip(traces[0].pictures, traces[1].pictures, strict=True):
            assert (picture - other).norm() / other.norm() < 1e-4
    assert parallel._runner.prefix_cache.lengths == alone._runner.prefix_cache.lengths


def test_a_chat_after_a_cancelled_picture(parallel: Engine, alone: Engine) -> None:
    """The prefix cache holds each rank's own heads, also after the picture gathered the others."""
    for engine in (parallel, alone):
        list(engine.run(ask("one two three")))
        events = engine.run(THINKING)
        while not isinstance(next(events), DenoisingStep):
            pass
        events.close()  # type: ignore[attr-defined]
    answers = [
        next(event for event in engine.run(ask("one two")) if isinstance(event, Answer)) for engine in (parallel, alone)
    ]
    assert answers[0].token_ids == answers[1].token_ids
    reused = [event.reused for event in parallel.run(ask("one two four")) if isinstance(event, PrefixRead)]
    assert reused[0] > 5


def test_each_rank_has_a_shard_of_the_understanding_tower(parallel: Engine, alone: Engine) -> None:
    layout = parallel._runner.model._groups.layout  # type: ignore[union-attr]
    own, whole = (
        {name: sum(each.nbytes for each in part.parameters()) for name, part in network.named_children()}
        for network in (parallel._runner.model.network, alone._runner.model.network)
    )
    for name, count in (("und", layout.size), ("lm_head", layout.size), ("gen", layout.tensor)):
        assert own[name] == pytest.approx(whole[name] / count, rel=0.02), name
    pair = [
        next(event for event in engine.run(ask("hello")) if isinstance(event, Answer)) for engine in (parallel, alone)
    ]
    assert pair[0].token_ids == pair[1].token_ids
    assert parallel.cached_bytes == alone.cached_bytes / layout.size
