"""The text loop: from a prefix to new tokens, one at a time."""

from collections.abc import Callable, Collection, Iterator
from typing import cast

import torch
from torch import Tensor

from config.schema import TextSettings
from model.network.sensenova import SenseNovaU1
from model.sampling.prefix import Prefix, extend_prefix

CACHE_BLOCK = 256
"""Positions the cache grows by while text is written, so that it is not reallocated for every token."""

Choose = Callable[[Tensor, list[int]], int]
"""Picks a token from logits (vocabulary,), given the new tokens so far."""


@torch.inference_mode()
def decode(
    network: SenseNovaU1, prefix: Prefix, choose: Choose, max_tokens: int, stop: Collection[int]
) -> Iterator[int]:
    """Yield new tokens, chosen from the logits behind a prefix.

    A token of `stop` is yielded and ends the text. Every token yielded but the last one has been read into the
    prefix; whether the last one belongs there is the caller's to decide.
    """
    tokens: list[int] = []
    while True:
        logits = network.logits(prefix.last_hidden)[0, 0]
        tokens.append(choose(logits, tokens))
        yield tokens[-1]
        if tokens[-1] in stop or len(tokens) == max_tokens:
            return
        if prefix.cache.length == prefix.cache.capacity:
            prefix.cache.reserve(min(CACHE_BLOCK, max_tokens - len(tokens)))
        extend_prefix(network, prefix, tokens[-1:])


def greedy(logits: Tensor, tokens: list[int]) -> int:
    """The most likely token."""
    return int(logits.argmax())


def chooser(settings: TextSettings, device: torch.device) -> Choose:
    """How an answer's tokens are picked from logits on `device`.

    `repetition_penalty` counts the answer's own tokens only, as in the reference implementation: the prompt holds
    the token that ends a turn, which must not become less likely for it.
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

    def choose(logits: Tensor, tokens: list[int]) -> int:
        seen = torch.tensor(tokens, dtype=torch.long, device=device)
        scores = processors(cast(torch.LongTensor, seen[None]), cast(torch.FloatTensor, logits[None]))
        if not settings.do_sample:
            return int(scores.argmax())
        return int(torch.multinomial(scores.softmax(dim=-1), 1, generator=generator))

    return choose
