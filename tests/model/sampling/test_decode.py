"""Sampling of tokens, and the two loops with asynchronous steps."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from config.settings import ImageSettings, TextSettings
from model.checkpoint.random_weights import config_fields, random_network
from model.inputs.token_sequence import TokenSequence
from model.network.attention import Segment
from model.network.configuration import parse_config
from model.network.rope import text_positions
from model.network.sensenova import SenseNovaU1
from model.sampling.backend import Backend
from model.sampling.decode import decode, greedy, make_sampler
from model.sampling.denoise import denoise
from model.sampling.guidance import generate_guidance
from model.sampling.prefill import Prefix, prefill

CPU = torch.device("cpu")
LOGITS = torch.tensor([0.0, 2.0, 1.9, -1.0])


def test_greedy_takes_the_first_of_equals() -> None:
    assert make_sampler(TextSettings(), CPU)(torch.tensor([1.0, 3.0, 3.0]), []) == 1


def test_the_penalty_counts_the_written_tokens() -> None:
    sample = make_sampler(TextSettings(repetition_penalty=1.3), CPU)
    assert sample(LOGITS, []) == 1
    assert sample(LOGITS, [1]) == 2
    assert sample(LOGITS, [0, 3]) == 1


def test_top_p_and_top_k_limit_the_candidates() -> None:
    for narrow in ({"top_k": 2}, {"top_p": 0.8}):
        sample = make_sampler(TextSettings(do_sample=True, temperature=1.0, **narrow), CPU)
        assert {int(sample(LOGITS, [])) for _ in range(100)} == {1, 2}
    sample = make_sampler(TextSettings(do_sample=True, temperature=5.0), CPU)
    assert {int(sample(LOGITS, [])) for _ in range(200)} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "changes",
    [
        {"repetition_penalty": 1.3},
        {"do_sample": True, "temperature": 1.7},
        {"do_sample": True, "top_k": 5, "top_p": 0.9},
        {"do_sample": True, "top_k": 90, "top_p": 0.4, "repetition_penalty": 0.8},
        {"do_sample": True, "top_p": 1e-6},
    ],
)
def test_scores_are_those_of_transformers(changes: dict[str, Any]) -> None:
    from transformers.generation import logits_process as theirs

    settings = TextSettings(**changes)
    processors = theirs.LogitsProcessorList()
    if settings.repetition_penalty != 1:
        processors.append(theirs.RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.do_sample:
        processors.append(theirs.TemperatureLogitsWarper(settings.temperature))
        if settings.top_k:
            processors.append(theirs.TopKLogitsWarper(settings.top_k))
        if settings.top_p < 1:
            processors.append(theirs.TopPLogitsWarper(settings.top_p))
    source = torch.Generator().manual_seed(4)
    sample, draw = make_sampler(settings, CPU), torch.Generator().manual_seed(settings.seed)
    tokens: list[int] = []
    for _ in range(30):
        logits = torch.randn(80, generator=source).mul(3).round(decimals=1)  # some are equal
        scores = processors(torch.tensor([tokens], dtype=torch.long), logits[None].clone())[0]
        likely = torch.multinomial(scores.softmax(-1), 1, generator=draw)[0] if settings.do_sample else scores.argmax()
        tokens.append(int(sample(logits, tokens)))
        assert tokens[-1] == likely


class AsyncBackend(Backend):
    """A backend with asynchronous steps. `launched` counts the denoising steps that were started."""

    denoises_async = decodes_async = True
    launched = 0

    def captured(self, work: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def counted(*arguments: Any) -> torch.Tensor:
            self.launched += 1
            return work(*arguments)

        return counted


@pytest.fixture(scope="module")
def network() -> SenseNovaU1:
    torch.manual_seed(0)
    shape = {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 96, "vocabulary": 50}
    return random_network(parse_config(config_fields(**shape, vision_hidden=32), "tiny"), CPU, torch.float32)


def text_prefix(network: SenseNovaU1, tokens: int = 5, room: int = 1) -> Prefix:
    ids = torch.arange(tokens) % 50
    sequence = TokenSequence(ids, text_positions(0, tokens, CPU), (Segment(tokens, causal=True),), tokens)
    with torch.inference_mode():
        return prefill(network, sequence, [], room)


def test_asynchronous_decoding_writes_the_same_text(network: SenseNovaU1) -> None:
    """The text outgrows the cache's first capacity. The prefix contains all yielded tokens but the last one."""
    written = []
    for backend in (Backend(network), AsyncBackend(network)):
        prefix = text_prefix(network)
        written.append(list(decode(backend, prefix, greedy, 200, ())))
        assert prefix.written == written[-1][:-1]
        assert prefix.cache.length == prefix.next_position == 5 + 199
    assert written[0] == written[1] and len(written[0]) == 200


@pytest.mark.parametrize("kind", [Backend, AsyncBackend])
def test_the_token_that_ends_a_text_is_not_read(network: SenseNovaU1, kind: type[Backend]) -> None:
    whole = list(decode(kind(network), text_prefix(network), greedy, 30, ()))
    end = whole.index(whole[9])
    prefix = text_prefix(network)
    assert list(decode(kind(network), prefix, greedy, 30, (whole[9],))) == whole[: end + 1]
    assert prefix.written == whole[:end] and prefix.cache.length == 5 + end


def test_after_closing_the_prefix_contains_the_yielded_tokens(network: SenseNovaU1) -> None:
    prefix = text_prefix(network)
    text = decode(AsyncBackend(network), prefix, greedy, 30, ())
    yielded = [next(text) for _ in range(4)]
    text.close()
    assert prefix.written == yielded[:-1] and prefix.cache.length == 5 + 3


def test_an_asynchronous_step_is_launched_before_its_predecessor_is_yielded(network: SenseNovaU1) -> None:
    settings = ImageSettings(num_steps=4, cfg_scale=1.0)
    tokens: list[list[torch.Tensor]] = []
    launched: list[int] = []
    for backend in (Backend(network), async_backend := AsyncBackend(network)):
        prefixes = {"condition": text_prefix(network, room=6)}
        tokens.append([])
        for step in denoise(backend, prefixes, generate_guidance(settings), (96, 64), 1, settings):
            tokens[-1].append(step.tokens)
            launched.append(async_backend.launched)
    assert launched == [0, 0, 0, 0, 2, 3, 4, 4]
    assert all(torch.equal(*pair) for pair in zip(*tokens, strict=True))
