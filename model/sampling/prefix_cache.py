"""Prefixes that outlive their request: what the next one finds there already, it need not read again.

What was read is compared as *items*: each text token is one, by its id, and each picture is one, by what the network
sees of it. Positions and segments follow from the items before, so that equal items at the start of two sequences
have equal keys and values; and no picture, whose tokens see one another, is ever cut in two.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from torch import Tensor

from config.sizes import TOKEN_PIXELS
from model.inputs.token_sequence import TokenSequence
from model.network.sensenova import SenseNovaU1
from model.sampling.prefill import Prefix, prefill


@dataclass(frozen=True)
class ImageIdentity:
    """Equal for two pictures exactly if the network is given the same numbers for both.

    Attributes:
        rows, columns: of the picture's tokens.
    """

    rows: int
    columns: int
    digest: bytes

    @classmethod
    def of(cls, pixels: Tensor) -> "ImageIdentity":
        """Of a normalised picture (1, 3, H, W), float32 on the CPU."""
        rows, columns = (side // TOKEN_PIXELS for side in pixels.shape[-2:])
        return cls(rows, columns, hashlib.sha256(pixels.contiguous().numpy().data).digest())


Item = int | ImageIdentity


def items_of(sequence: TokenSequence, pictures: Sequence[ImageIdentity]) -> list[Item]:
    """The items of a sequence that has these pictures."""
    ids, remaining = sequence.ids.tolist(), iter(pictures)
    items: list[Item] = []
    start = 0
    for segment in sequence.segments:
        items += ids[start : start + segment.count] if segment.causal else [next(remaining)]
        start += segment.count
    return items


def count_tokens(items: Sequence[Item]) -> int:
    return sum(item.rows * item.columns if isinstance(item, ImageIdentity) else 1 for item in items)


@dataclass
class CachedPrefix:
    """A prefix, and what was read into it.

    Attributes:
        items: `prefix.last_hidden` is the hidden state of the last one.
    """

    items: list[Item]
    prefix: Prefix

    @property
    def tokens(self) -> int:
        return count_tokens(self.items)

    def settle(self) -> None:
        """Its request is over: take in what was written behind it, and give back all other memory."""
        self.items += self.prefix.written
        self.prefix.written.clear()
        self.prefix.cache.truncate(self.tokens)
        self.prefix.cache.trim()


class Prefill:
    """How a sequence is going to be read.

    Attributes:
        sequence: the whole of it.
        reused: tokens at its start that are there already.
        rest: what is left to read; nothing if a kept prefix is just this sequence.
    """

    def __init__(
        self,
        sequence: TokenSequence,
        pictures: Sequence[ImageIdentity],
        kept: CachedPrefix | None,
        *,
        partly: bool,
    ) -> None:
        """Compare a sequence with a kept prefix, which belongs to this reading from now on.

        Args:
            partly: also reuse a part of the kept prefix, and read the rest behind it. The numbers are then those of
                reading all at once but for rounding.
        """
        self.sequence = sequence
        self._items = items_of(sequence, pictures)
        shared = 0
        if kept is not None and kept.items == self._items:
            shared = len(self._items)
        elif kept is not None and partly:
            shared = self._shared(kept)
        self.reused = count_tokens(self._items[:shared])
        self._kept = kept if shared else None
        self.rest = sequence.after(self.reused)

    def read(self, network: SenseNovaU1, pictures: Sequence[Tensor], room: int) -> CachedPrefix:
        """Read the rest.

        Args:
            pictures: those of `rest`, from `embed_image`.
            room: positions to have ready behind it.
        """
        if self._kept is None:
            return CachedPrefix(self._items, prefill(network, self.rest, pictures, room))
        cache = self._kept.prefix.cache
        if not len(self.rest):
            cache.reserve(room)
            return self._kept
        cache.truncate(self.reused)
        return CachedPrefix(self._items, prefill(network, self.rest, pictures, room, cache))

    def _shared(self, kept: CachedPrefix) -> int:
        """How many items both start with, without the sequence's last one: its hidden state has to come out."""
        pairs = zip(self._items[:-1], kept.items, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
