"""Read a prefix into a cache, whose end is where a picture or text begins."""

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
    """Where a picture is drawn: behind a sequence that has been read.

    Attributes:
        cache: the sequence's keys and values, with room for those of the picture's tokens.
        next_position: t of the token that follows.
    """

    cache: LayerCache
    next_position: int


@dataclass
class Prefix(DenoiseState):
    """A sequence that has been read.

    Attributes:
        cache: its keys and values.
        last_hidden: hidden state of the last token, (1, 1, hidden_size): its logits give the next one.
        written: ids of the text tokens that have been read behind the sequence.
    """

    cache: KVCache
    last_hidden: Tensor
    written: list[int] = field(default_factory=list)

    def fork(self) -> "Prefix":
        """The same prefix, to write on from. The cache is shared, but this one's end stays where it is: cutting the
        cache there undoes what was written."""
        return replace(self, written=[*self.written])

    def keep(self, ids: Sequence[int], last_hidden: Tensor) -> None:
        """Make the text tokens that `read_text` left behind the end part of the prefix."""
        self.cache.advance(len(ids))
        self.written += ids
        self.next_position += len(ids)
        self.last_hidden = last_hidden


def embed_image(network: SenseNovaU1, pixels: Tensor) -> Tensor:
    """A normalised picture (1, 3, H, W) as the und tower takes it in: (rows, columns, hidden_size)."""
    vision = network.config.vision
    rows, columns = (side // vision.patch_size for side in pixels.shape[-2:])
    rotary = patch_rotary(rows, columns, vision.hidden_size, vision.rope_theta, network.device)
    tokens = network.und_vision(pixels.to(network.device, network.dtype), rotary)
    return tokens.view(rows // 2, columns // 2, -1)


def prefill(
    network: SenseNovaU1,
    sequence: TokenSequence,
    pictures: Sequence[Tensor],
    room: int,
    cache: KVCache | None = None,
) -> Prefix:
    """Run the und tower over a whole sequence, or over what follows the part of it that a cache holds already.

    Args:
        sequence: at least one token.
        pictures: those of the sequence, from `embed_image`.
        room: positions to have ready behind it, for text or a picture.
        cache: the part before the sequence; a new one where it is None.
    """
    config = network.config.transformer
    count = sequence.ids.shape[0]
    if cache is None:
        cache = KVCache(config, count + room, network.dtype, network.device)
    cache.reserve(count + room)
    rotary = attention_rotary(sequence.positions, config, network.dtype)
    hidden = network.read(_embed(network, sequence, pictures), rotary, cache, sequence.segments)
    return Prefix(cache, sequence.next_position, hidden[:, -1:].clone())  # a view would keep all of `hidden`


def extend_prefix(network: SenseNovaU1, prefix: Prefix, ids: Sequence[int]) -> None:
    """Read more text tokens at a prefix's end."""
    prefix.cache.reserve(len(ids))
    hidden = read_text(network, prefix, torch.tensor(list(ids), dtype=torch.long, device=network.device))
    prefix.keep(ids, hidden[:, -1:])


def read_text(network: SenseNovaU1, prefix: Prefix, ids: Tensor) -> Tensor:
    """Run the und tower over text tokens, (N,) int64, behind a prefix that has room for them.

    The prefix is left as it was, with the tokens' keys and values behind its end: `Prefix.keep` makes them part of it.

    Returns:
        Hidden states (1, N, hidden_size).
    """
    count = ids.shape[0]
    positions = text_positions(prefix.next_position, count, network.device)
    rotary = attention_rotary(positions, network.config.transformer, network.dtype)
    return network.und(network.embed_tokens(ids)[None], [rotary], [prefix.cache], [Segment(count, causal=True)])


def _embed(network: SenseNovaU1, sequence: TokenSequence, pictures: Sequence[Tensor]) -> Tensor:
    """(1, N, hidden_size): the tokens' embeddings, pictures in their places."""
    embeddings = network.embed_tokens(sequence.ids)[None]
    remaining = iter(pictures)
    start = 0
    for segment in sequence.segments:
        if not segment.causal:
            embeddings[:, start : start + segment.count] = next(remaining).flatten(0, 1)
        start += segment.count
    return embeddings
