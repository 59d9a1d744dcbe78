"""Prefill: running the understanding tower over a prompt. Text or a picture then follows the prompt."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from model.inputs.token_sequence import TokenSequence
from model.network.attention import Segment
from model.network.cache import KVCache, LayerCache
from model.network.rope import attention_rotary, patch_rotary, text_positions
from model.network.sensenova import SenseNovaU1


@dataclass
class DenoiseState:
    """A branch's KV cache, and the position of the picture's tokens that are denoised.

    Attributes:
        cache: keys and values of the branch's prefix, with room for those of the picture's tokens.
        next_position: t of the next token.
    """

    cache: LayerCache
    next_position: int


@dataclass
class Prefix(DenoiseState):
    """A sequence that the understanding tower has processed.

    Attributes:
        cache: the sequence's keys and values.
        last_hidden: hidden state of the last token, (1, 1, hidden_size), whose logits predict the next token.
        written: ids of the text tokens that were appended after the prefill.
    """

    cache: KVCache
    last_hidden: Tensor
    written: list[int] = field(default_factory=list)

    def fork(self) -> "Prefix":
        """Return a copy that text can be appended to. Both share the cache, but appended tokens are not part of the
        original. They are removed by truncating the cache to the original's length."""
        return replace(self, written=[*self.written])

    def append(self, ids: Sequence[int], last_hidden: Tensor) -> None:
        """Make text tokens part of the prefix, after `forward_text` has written their keys and values.

        Args:
            last_hidden: hidden state of the last of them, (1, 1, hidden_size).
        """
        self.cache.advance(len(ids))
        self.written += ids
        self.next_position += len(ids)
        self.last_hidden = last_hidden


def embed_image(network: SenseNovaU1, pixels: Tensor) -> Tensor:
    """Embed a normalised image (1, 3, H, W) for the understanding tower: (rows, columns, hidden_size)."""
    vision = network.config.vision
    rows, columns = (side // vision.patch_size for side in pixels.shape[-2:])
    rotary = patch_rotary(rows, columns, vision.hidden_size, vision.rope_theta, network.device)
    tokens = network.und_vision(pixels.to(network.device, network.dtype), rotary)
    return tokens.view(rows // 2, columns // 2, -1)


def prefill(
    network: SenseNovaU1,
    sequence: TokenSequence,
    images: Sequence[Tensor],
    reserve: int,
    cache: KVCache | None = None,
) -> Prefix:
    """Run the understanding tower over a sequence, which follows the tokens in a cache.

    Args:
        sequence: at least one token.
        images: the images of the sequence, from `embed_image`.
        reserve: positions to reserve after the sequence, for text or a picture.
        cache: the KV cache of the tokens before the sequence; None if there are none.
    """
    config = network.config.transformer
    count = sequence.ids.shape[0]
    if cache is None:
        cache = KVCache(config, count + reserve, network.dtype, network.device)
    cache.reserve(count + reserve)
    rotary = attention_rotary(sequence.positions, config, network.dtype)
    hidden = network.prefill(_embed(network, sequence, images), rotary, cache, sequence.segments)
    return Prefix(cache, sequence.next_position, hidden[:, -1:].clone())  # a view would keep all of `hidden`


def extend_prefix(network: SenseNovaU1, prefix: Prefix, ids: Sequence[int]) -> None:
    """Run the understanding tower over more text tokens and append them to a prefix."""
    prefix.cache.reserve(len(ids))
    hidden = forward_text(network, prefix, torch.tensor(list(ids), dtype=torch.long, device=network.device))
    prefix.append(ids, hidden[:, -1:])


def forward_text(network: SenseNovaU1, prefix: Prefix, ids: Tensor) -> Tensor:
    """Run the understanding tower over text tokens, (N,) int64, which follow a prefix that has room for them.

    Their keys and values are written after the end of the prefix. `Prefix.append` makes them part of it.

    Returns:
        Hidden states (1, N, hidden_size).
    """
    count = ids.shape[0]
    positions = text_positions(prefix.next_position, count, network.device)
    rotary = attention_rotary(positions, network.config.transformer, network.dtype)
    return network.und(network.embed_tokens(ids)[None], [rotary], [prefix.cache], [Segment(count, causal=True)])


def _embed(network: SenseNovaU1, sequence: TokenSequence, images: Sequence[Tensor]) -> Tensor:
    """Return the embeddings of the tokens, with those of the images in their places: (1, N, hidden_size)."""
    embeddings = network.embed_tokens(sequence.ids)[None]
    remaining = iter(images)
    start = 0
    for segment in sequence.segments:
        if not segment.causal:
            embeddings[:, start : start + segment.count] = next(remaining).flatten(0, 1)
        start += segment.count
    return embeddings
