"""The prefix cache: prefixes of the last request, of which the next request reuses equal tokens.

Sequences are compared item by item. An item is a text token, compared by its id, or a whole image, compared by the
pixels that the network gets. Positions and segments follow from the items before them, so two sequences that start with
equal items have equal keys and values there. The tokens of an image attend to each other, so an image is never split.
"""

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from config.sizes import TOKEN_PIXELS
from model.events import Branch, Waiting
from model.inputs.token_sequence import TokenSequence
from model.network.attention import CAUSAL_ROWS
from model.network.sensenova import SenseNovaU1
from model.sampling.prefill import Prefix, prefill

CHUNK_WORK = (6 * CAUSAL_ROWS) ** 2
"""Pairs of a token and a token before it in a chunk of a prefill: those of the first 1,536 tokens. With the demo, two
slow cores take a second for them."""


@dataclass(frozen=True)
class ImageIdentity:
    """The identity of an image: equal for two images exactly if the network gets the same numbers for both.

    Attributes:
        rows, columns: the grid of the image's tokens.
        digest: SHA-256 of the normalised pixels.
    """

    rows: int
    columns: int
    digest: bytes

    @classmethod
    def of(cls, pixels: Tensor) -> "ImageIdentity":
        """Return the identity of a normalised image (1, 3, H, W), float32 on the CPU."""
        rows, columns = (side // TOKEN_PIXELS for side in pixels.shape[-2:])
        return cls(rows, columns, hashlib.sha256(pixels.contiguous().numpy().data).digest())


Item = int | ImageIdentity


def items_of(sequence: TokenSequence, images: Sequence[ImageIdentity]) -> list[Item]:
    """Return the items of a sequence that contains these images."""
    ids, remaining = sequence.ids.tolist(), iter(images)
    items: list[Item] = []
    start = 0
    for segment in sequence.segments:
        items += ids[start : start + segment.count] if segment.causal else [next(remaining)]
        start += segment.count
    return items


def count_tokens(items: Sequence[Item]) -> int:
    """Return the number of tokens that the items have in a sequence."""
    return sum(item.rows * item.columns if isinstance(item, ImageIdentity) else 1 for item in items)


@dataclass
class CachedPrefix:
    """A prefix and the items that it contains.

    Attributes:
        items: the items in order; `prefix.last_hidden` is the hidden state of the last one.
    """

    items: list[Item]
    prefix: Prefix

    @property
    def tokens(self) -> int:
        """The number of tokens in the prefix."""
        return count_tokens(self.items)

    def trim(self) -> None:
        """Add the tokens written after the prefix to its items, and free the memory after them."""
        self.items += self.prefix.written
        self.prefix.written.clear()
        self.prefix.cache.truncate(self.tokens)
        self.prefix.cache.trim()


class PrefixCache:
    """The prefixes of the last request, by branch, for the next request.

    Attributes:
        prefixes: the cached prefixes; empty while a request runs.
    """

    def __init__(self) -> None:
        self.prefixes: dict[Branch, CachedPrefix] = {}

    @property
    def lengths(self) -> dict[Branch, int]:
        """Cached tokens by branch."""
        return {branch: cached.tokens for branch, cached in self.prefixes.items()}

    @property
    def nbytes(self) -> int:
        """Device memory of the prefixes."""
        return sum(cached.prefix.cache.nbytes for cached in self.prefixes.values())

    def take(self) -> dict[Branch, CachedPrefix]:
        """Remove all prefixes and return them."""
        prefixes, self.prefixes = self.prefixes, {}
        return prefixes

    def store(self, prefixes: dict[Branch, CachedPrefix]) -> None:
        """Trim the prefixes of a request that has ended, then replace the cached ones by them."""
        for cached in prefixes.values():
            cached.trim()
        self.prefixes = prefixes

    def clear(self) -> None:
        """Free the memory of all prefixes."""
        self.prefixes = {}


class Prefill:
    """The prefill of one sequence. It reuses the tokens of a cached prefix and computes the rest.

    Attributes:
        sequence: the whole sequence.
        reused: number of tokens at its start that the cached prefix contains.
        rest: the tokens to compute; empty if the cached prefix equals the sequence.
    """

    def __init__(
        self,
        sequence: TokenSequence,
        images: Sequence[ImageIdentity],
        cached: CachedPrefix | None,
        *,
        allow_partial: bool,
    ) -> None:
        """Compare a sequence with a cached prefix, which `run` may then extend in place.

        Args:
            images: the images of the sequence.
            allow_partial: also reuse a cached prefix of which only the first items are equal. The results are then
                those of one prefill of the whole sequence, except for rounding.
        """
        self.sequence = sequence
        self._items = items_of(sequence, images)
        shared = 0
        if cached is not None and cached.items == self._items:
            shared = len(self._items)
        elif cached is not None and allow_partial:
            shared = self._count_shared(cached)
        self.reused = count_tokens(self._items[:shared])
        self._cached = cached if shared else None
        self.rest = sequence.after(self.reused)

    @torch.inference_mode()
    def run(
        self, network: SenseNovaU1, images: Sequence[Tensor], reserve: int, in_chunks: bool
    ) -> Generator[Waiting, None, CachedPrefix]:
        """Prefill the rest and return the prefix of the whole sequence.

        Args:
            images: the images of `rest`, from `embed_image`.
            reserve: positions to reserve in the KV cache after the prefix.
            in_chunks: whether to prefill a long text in chunks, and to yield a `Waiting` between them. Attention
                computes the same rows together as without.
        """
        cache = self._cached.prefix.cache if self._cached is not None else None
        if self._cached is not None and cache is not None:
            if not len(self.rest):
                cache.reserve(reserve)
                return self._cached
            cache.truncate(self.reused)
        parts = self.rest.split_long_texts(self.reused, CAUSAL_ROWS, CHUNK_WORK) if in_chunks else [self.rest]
        left = len(self.rest)
        for part in parts:
            left -= len(part)
            prefix = prefill(network, part, images[: part.images], reserve + left, cache)
            if left:
                cache, images = prefix.cache, images[part.images :]
                yield Waiting(0)
        return CachedPrefix(self._items, prefix)

    def _count_shared(self, cached: CachedPrefix) -> int:
        """Count the equal items at the start of both sequences. The sequence's last item is excluded: it has to be
        computed to get its hidden state."""
        pairs = zip(self._items[:-1], cached.items, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
