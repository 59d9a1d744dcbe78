"""The KV cache of a prefix, with room after it for the tokens of the picture that is denoised."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from model.network.configuration import TransformerConfig

CAPACITY_STEP = 128
"""Capacities are multiples of this, a usual tile of keys in attention kernels. A kernel that loads a whole tile past
the end of the prefix then reads zeros of the same head."""


class LayerCache(ABC):
    """The keys and values of sequences during a pass through a tower. A layer may be used from its `begin` on.

    A layer's keys and values are (B, kv_heads, capacity, head_dim). The first `length` positions belong to the prefix.
    A pass writes its own tokens' keys and values after them, in place.

    Attributes:
        length: number of positions of the prefix.
        layers_share: whether all layers use the same memory in turn. Streams must then wait for each other around
            `begin`.
    """

    length: int
    layers_share = False

    @abstractmethod
    def _layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values of a layer, all positions."""

    @abstractmethod
    def begin(self, layer: int) -> None:
        """Prepare a layer. Work on the previous layer must precede this call on the current stream."""

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Write keys and values (B, kv_heads, N, head_dim) after the prefix."""
        key_room, value_room = self.room(layer, keys.shape[2])
        key_room.copy_(keys)
        value_room.copy_(values)

    def room(self, layer: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Return views of the `tokens` positions after the prefix, (B, kv_heads, tokens, head_dim), to write to."""
        keys, values = self._layer(layer)
        end = self.length + tokens
        if end > keys.shape[2]:
            raise ValueError(f"no room in the cache: {end} positions of {keys.shape[2]}; call reserve first")
        return keys[:, :, self.length : end], values[:, :, self.length : end]

    def upto(self, layer: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Return views of the prefix's positions and of the `tokens` positions after it."""
        keys, values = self._layer(layer)
        end = self.length + tokens
        return keys[:, :, :end], values[:, :, :end]


class KVCache(LayerCache):
    """A cache with memory for every layer. Both towers read and write it.

    Positions after the prefix become part of it only if `advance` is called after the last layer. A denoising step does
    not call it, so the next step overwrites the same positions. The cache is written in place and carries no gradients.
    """

    def __init__(
        self,
        config: TransformerConfig,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
        batch: int = 1,
    ) -> None:
        shape = (batch, config.kv_heads, _round_up(capacity), config.head_dim)
        # Zeros, because attention kernels load whole tiles, also past the end of the prefix, and 0 · NaN would be NaN.
        self._keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.layers)]
        self._values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.layers)]
        self.length = 0

    @property
    def capacity(self) -> int:
        """Positions that memory is allocated for."""
        return self._keys[0].shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of all layers, including the room after the prefix."""
        return sum(tensor.nbytes for tensor in (*self._keys, *self._values))

    def begin(self, layer: int) -> None:
        """Do nothing: each layer has memory of its own."""

    def _layer(self, layer: int) -> tuple[Tensor, Tensor]:
        return self._keys[layer], self._values[layer]

    def addresses(self) -> list[int]:
        """Return the device addresses of each layer's keys and values, for kernels that read them directly."""
        pairs = zip(self._keys, self._values, strict=True)
        return [tensor.data_ptr() for pair in pairs for tensor in pair]

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` positions after the prefix. Reallocate one layer at a time if there is too little."""
        if self.length + tokens > self.capacity:
            self._reallocate(_round_up(self.length + tokens))

    def truncate(self, length: int) -> None:
        """Keep the first `length` positions and set the rest to zeros, as in a new cache."""
        if length > self.length:
            raise ValueError(f"cannot keep {length} positions: the cache holds {self.length}")
        for tensor in (*self._keys, *self._values):
            tensor[:, :, length:] = 0
        self.length = length

    def trim(self) -> None:
        """Free the memory after the prefix by reallocating one layer at a time."""
        if _round_up(self.length) < self.capacity:
            self._reallocate(_round_up(self.length))

    def advance(self, tokens: int) -> None:
        """Make the last `tokens` written positions part of the prefix."""
        self.length += tokens

    def _reallocate(self, capacity: int) -> None:
        for store in (self._keys, self._values):
            for layer, old in enumerate(store):
                batch, heads, _, width = old.shape
                new = old.new_zeros(batch, heads, capacity, width)
                new[:, :, : self.length] = old[:, :, : self.length]
                store[layer] = new


class LongerCache(LayerCache):
    """The memory of a cache, with a prefix that has more tokens: those that the same pass writes before."""

    def __init__(self, cache: KVCache, more: int) -> None:
        """
        Args:
            more: tokens after the prefix of `cache` that belong to this prefix, too.
        """
        self._cache = cache
        self.length = cache.length + more

    def begin(self, layer: int) -> None:
        """Do nothing: each layer has memory of its own."""

    def _layer(self, layer: int) -> tuple[Tensor, Tensor]:
        return self._cache._layer(layer)


class ScratchCache(LayerCache):
    """A cache with memory for one layer, to denoise a picture after a prefix that has no room for it.

    `begin` copies the prefix's keys and values of the layer here. Attention then finds them next to those of the
    picture's tokens, with the same numbers and zeros as in a `KVCache`: values of the previous layer remain only at the
    positions that the new layer overwrites. The prefix must not change meanwhile.
    """

    layers_share = True

    def __init__(self, prefix: KVCache, tokens: int) -> None:
        """Make room for a picture of `tokens` tokens."""
        self._prefix = prefix
        self.length = prefix.length
        self._current: int | None = None
        keys, values = prefix.upto(0, 0)
        batch, heads, _, width = keys.shape
        shape = (batch, heads, _round_up(prefix.length + tokens), width)
        self._keys, self._values = keys.new_zeros(shape), values.new_zeros(shape)

    @property
    def nbytes(self) -> int:
        """Bytes besides the prefix's."""
        return self._keys.nbytes + self._values.nbytes

    def begin(self, layer: int) -> None:
        """Copy the prefix's keys and values of a layer."""
        for own, prefix in zip((self._keys, self._values), self._prefix.upto(layer, 0), strict=True):
            own[:, :, : self.length] = prefix
        self._current = layer

    def _layer(self, layer: int) -> tuple[Tensor, Tensor]:
        if layer != self._current:
            raise ValueError(f"layer {layer} has not begun; the cache holds layer {self._current}")
        return self._keys, self._values


def _round_up(capacity: int) -> int:
    return -(-capacity // CAPACITY_STEP) * CAPACITY_STEP
