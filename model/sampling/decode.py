"""The text loops: from a prefix to new tokens, one in each forward pass, or several with prompt lookup."""

from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor

from config.settings import TextSettings
from model.devices import copy_to_host
from model.sampling.backend import Backend
from model.sampling.prefill import Prefix
from model.sampling.prompt_lookup import PromptLookup

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


@torch.inference_mode()
def decode_with_lookup(
    backend: Backend, prefix: Prefix, sample: Sampler, max_tokens: int, stop: Collection[int], lookup: PromptLookup
) -> Iterator[int]:
    """Yield the same tokens as `decode`, with fewer forward passes if the text repeats something.

    A pass reads a new token and a draft of the tokens after it. The tokens are then sampled one after another from the
    logits of that pass, as `decode` would sample them, for as long as they equal the draft. A pass computes each token
    by the same operations as a pass of this token alone, so the logits have the same bits.

    Args:
        lookup: the tokens of the prefix. Those of the text are added, and the passes are counted.
    """
    tokens: list[int] = []
    logits = backend.logits(prefix)
    read: list[tuple[int, Tensor, Tensor]] = []  # the rest of the last draft, with its hidden states and logits
    try:
        while True:
            token = int(backend.group.broadcast(sample(logits, tokens)))
            tokens.append(token)
            lookup.append(token)
            yield token
            left = max_tokens - len(tokens)
            if token in stop or not left:
                return
            if not read or read[0][0] != token:
                ids = [token, *lookup.draft(left - 1)]
                if prefix.cache.length + len(ids) > prefix.cache.capacity:
                    prefix.cache.reserve(max(len(ids), min(CACHE_GROWTH, left)))
                lookup.passes += 1
                read = [(each, *result) for each, result in zip(ids, backend.forward_tokens(prefix, ids), strict=True)]
            _, hidden, logits = read.pop(0)
            prefix.append([token], hidden)
    finally:
        # Keys and values of rejected tokens are after the end of the prefix, where a new cache has zeros.
        prefix.cache.truncate(prefix.cache.length)


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
    generator = torch.Generator(device).manual_seed(settings.seed)

    def sample(logits: Tensor, tokens: list[int]) -> Tensor:
        scores = logits[None]
        if settings.repetition_penalty != 1:
            # Only the penalty needs the tokens. Copying them to the device waits, so they are copied only for it.
            scores = penalise(scores, torch.tensor([tokens], dtype=torch.long, device=device), settings)
        if not settings.do_sample:
            return scores[0].argmax()
        scores = keep_likely(scores / settings.temperature, settings)
        return torch.multinomial(scores[0].softmax(dim=-1), 1, generator=generator)[0]

    return sample


def penalise(scores: Tensor, tokens: Tensor, settings: TextSettings) -> Tensor:
    """Make tokens that were written less likely.

    The arithmetic of this function and of `keep_likely` is that of transformers' logits processors, so that a seed
    gives the same text as there.

    Args:
        scores: logits, (1, vocabulary).
        tokens: ids of the written tokens, (1, N).
    """
    penalty = settings.repetition_penalty
    written = scores.gather(1, tokens)
    return scores.scatter(1, tokens, torch.where(written < 0, written * penalty, written / penalty))


def keep_likely(scores: Tensor, settings: TextSettings) -> Tensor:
    """Set scores (1, vocabulary) to -inf outside of the `top_k` most likely tokens, and outside of the most likely
    tokens whose probabilities sum to `top_p`."""
    if settings.top_k:
        least = scores.topk(min(settings.top_k, scores.shape[-1]))[0][..., -1, None]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if settings.top_p < 1:
        ordered, order = scores.sort()
        unlikely = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - settings.top_p
        unlikely[..., -1] = False  # the most likely token always stays
        scores = scores.masked_fill(unlikely.scatter(1, order, unlikely), -torch.inf)
    return scores
