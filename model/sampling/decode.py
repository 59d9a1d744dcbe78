"""The text loop: from a prefix to new tokens, one at a time."""

from collections.abc import Callable, Collection, Iterator
from typing import cast

import torch
from torch import Tensor

from config.settings import TextSettings
from model.devices import copy_to_host
from model.sampling.backend import Backend
from model.sampling.prefill import Prefix

CACHE_GROWTH = 256
"""Positions by which the KV cache grows while text is written, so that it is not reallocated for every token."""

Sampler = Callable[[Tensor, list[int]], Tensor]
"""Picks a token, () int64, from logits (vocabulary,), given the new tokens so far."""


@torch.inference_mode()
def decode(backend: Backend, prefix: Prefix, sample: Sampler, max_tokens: int, stop: Collection[int]) -> Iterator[int]:
    """Yield new tokens, sampled from the logits after a prefix.

    A token of `stop` is yielded and ends the text. The prefix contains every yielded token but the last one; the caller
    decides whether to append that one.

    With a backend that decodes asynchronously, the forward pass of a token starts before the token is yielded. After a
    token of `stop` that pass is wasted, which costs less time than waiting for each token.
    """
    tokens: list[int] = []
    logits = backend.logits(prefix)
    while True:
        if prefix.cache.length == prefix.cache.capacity:
            prefix.cache.reserve(max(1, min(CACHE_GROWTH, max_tokens - len(tokens))))
        sampled = backend.group.broadcast(sample(logits, tokens))
        wait_for_token = copy_to_host(sampled)
        starts_early = backend.decodes_async and len(tokens) + 1 < max_tokens
        output = backend.forward_token(prefix, sampled) if starts_early else None
        tokens.append(wait_for_token())
        yield tokens[-1]
        if tokens[-1] in stop or len(tokens) == max_tokens:
            return
        hidden, logits = output or backend.forward_token(prefix, sampled)
        prefix.append(tokens[-1:], hidden)


def greedy(logits: Tensor, tokens: list[int]) -> Tensor:
    """Return the most likely token."""
    return logits.argmax()


def make_sampler(settings: TextSettings, device: torch.device) -> Sampler:
    """Return the sampler for an answer with these settings.

    `repetition_penalty` applies to the answer's own tokens only, as in the reference implementation: the prompt
    contains the token that ends a turn, and that token must not become less likely.

    Args:
        device: the device of the logits.
    """
    if not settings.do_sample and settings.repetition_penalty == 1:
        return greedy
    from transformers.generation.logits_process import (
        LogitsProcessorList,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    processors = LogitsProcessorList()
    if settings.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.do_sample:
        processors.append(TemperatureLogitsWarper(settings.temperature))
        if settings.top_k:
            processors.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p < 1:
            processors.append(TopPLogitsWarper(settings.top_p))
    generator = torch.Generator(device).manual_seed(settings.seed)

    def sample(logits: Tensor, tokens: list[int]) -> Tensor:
        # Only the penalty needs the tokens. Copying them to the device waits, so they are copied only for it.
        penalised = tokens if settings.repetition_penalty != 1 else []
        token_ids = torch.tensor(penalised, dtype=torch.long, device=device)
        scores = processors(cast(torch.LongTensor, token_ids[None]), cast(torch.FloatTensor, logits[None]))
        if not settings.do_sample:
            return scores[0].argmax()
        return torch.multinomial(scores[0].softmax(dim=-1), 1, generator=generator)[0]

    return sample
