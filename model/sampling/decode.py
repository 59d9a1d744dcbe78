"""The text loop: from a prefix to new tokens, one at a time."""

from collections.abc import Callable, Collection, Iterator
from typing import cast

import torch
from torch import Tensor

from config.settings import TextSettings
from model.sampling.backend import Backend, copy_to_host
from model.sampling.prefill import Prefix

CACHE_STEP = 256
"""Positions the cache grows by while text is written, so that it is not reallocated for every token."""

Choose = Callable[[Tensor, list[int]], Tensor]
"""Picks a token, () int64, from logits (vocabulary,), given the new tokens so far."""


@torch.inference_mode()
def decode(backend: Backend, prefix: Prefix, choose: Choose, max_tokens: int, stop: Collection[int]) -> Iterator[int]:
    """Yield new tokens, chosen from the logits behind a prefix.

    A token of `stop` is yielded and ends the text. Every token yielded but the last one has been read into the
    prefix; whether the last one belongs there is the caller's to decide.

    Where the device runs ahead, it reads a token while that one is told. A token of `stop` is then read in vain,
    which is less than what waiting for each token costs.
    """
    tokens: list[int] = []
    logits = backend.logits(prefix)
    while True:
        if prefix.cache.length == prefix.cache.capacity:
            prefix.cache.reserve(max(1, min(CACHE_STEP, max_tokens - len(tokens))))
        chosen = backend.group.broadcast(choose(logits, tokens))
        number = copy_to_host(chosen)
        ahead = backend.decodes_async and len(tokens) + 1 < max_tokens
        read = backend.forward_token(prefix, chosen) if ahead else None
        tokens.append(number())
        yield tokens[-1]
        if tokens[-1] in stop or len(tokens) == max_tokens:
            return
        hidden, logits = read or backend.forward_token(prefix, chosen)
        prefix.keep(tokens[-1:], hidden)


def greedy(logits: Tensor, tokens: list[int]) -> Tensor:
    """The most likely token."""
    return logits.argmax()


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

    def choose(logits: Tensor, tokens: list[int]) -> Tensor:
        # Only the penalty looks at the tokens, whose way to the device waits for it.
        penalised = tokens if settings.repetition_penalty != 1 else []
        seen = torch.tensor(penalised, dtype=torch.long, device=device)
        scores = processors(cast(torch.LongTensor, seen[None]), cast(torch.FloatTensor, logits[None]))
        if not settings.do_sample:
            return scores[0].argmax()
        return torch.multinomial(scores[0].softmax(dim=-1), 1, generator=generator)[0]

    return choose
