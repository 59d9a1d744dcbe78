"""Read a prefix into a cache, whose end is where a picture or text begins."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.network.attention import Segment
from model.network.cache import KVCache
from model.network.rope import attention_rotary, patch_rotary, text_positions
from model.network.sensenova import SenseNovaU1
from model.sequences.sequence import TokenSequence


@dataclass
class Prefix:
    """A sequence that has been read.

    Attributes:
        cache: its keys and values.
        next_position: t of the token that follows.
        last_hidden: hidden state of the last token, (1, 1, hidden_size): its logits give the next one.
    """

    cache: KVCache
    next_position: int
    last_hidden: Tensor


def read_prefix(network: SenseNovaU1, sequence: TokenSequence, room: int) -> Prefix:
    """Run the und tower over a whole sequence.

    Args:
        room: positions to have ready behind it, for text or a picture.
    """
    config = network.config.transformer
    count = sequence.ids.shape[0]
    cache = KVCache(config, count + room, network.dtype, network.device)
    rotary = attention_rotary(sequence.positions, config, network.dtype)
    hidden = network.read(_embed(network, sequence), rotary, cache, sequence.segments)
    return Prefix(cache, sequence.next_position, hidden[:, -1:])


def extend_prefix(network: SenseNovaU1, prefix: Prefix, ids: Sequence[int]) -> None:
    """Read more text tokens at a prefix's end."""
    device = network.device
    tokens = torch.tensor([list(ids)], dtype=torch.long, device=device)
    positions = text_positions(prefix.next_position, len(ids), device)
    rotary = attention_rotary(positions, network.config.transformer, network.dtype)
    prefix.cache.reserve(len(ids))
    hidden = network.read(network.embed_tokens(tokens), rotary, prefix.cache, [Segment(len(ids), causal=True)])
    prefix.next_position += len(ids)
    prefix.last_hidden = hidden[:, -1:]


def _embed(network: SenseNovaU1, sequence: TokenSequence) -> Tensor:
    """(1, N, hidden_size): the tokens' embeddings, pictures in their places."""
    embeddings = network.embed_tokens(sequence.ids)[None].clone()
    pictures = iter(sequence.pictures)
    start = 0
    for segment in sequence.segments:
        if not segment.causal:
            pixels = next(pictures).to(network.device, network.dtype)
            vision = network.config.vision
            rows, columns = (side // vision.patch_size for side in pixels.shape[-2:])
            rotary = patch_rotary(rows, columns, vision.hidden_size, vision.rope_theta, network.device)
            embeddings[:, start : start + segment.count] = network.und_vision(pixels, rotary)
        start += segment.count
    return embeddings
