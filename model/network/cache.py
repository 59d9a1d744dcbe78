"""Keys and values of a prefix, with room behind them for the tokens of a picture being denoised."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from model.network.configuration import TransformerConfig

CAPACITY_STEP = 128
"""Capacities are multiples of this, a usual tile of keys in attention kernels, so that what a kernel loads past the
end of the prefix is the same head's zeros."""


class LayerCache(ABC):
    """One sequence's keys and values as a pass through a tower uses them: layer by layer, each from its `begin` on.

    A layer's keys and values are (B, kv_heads, capacity, head_dim). The first `length` positions are the prefix's; a
    pass writes those of its own tokens behind them, in place.

    Attributes:
        layers_share: whether the layers have the same memory, one after the other. Whoever computes on several streams
            of a device then has to have them wait for one another around `begin`.
    """

    length: int
    layers_share = False

    @abstractmethod
    def _layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """All positions of a layer."""

    @abstractmethod
    def begin(self, layer: int) -> None:
        """A pass has come to a layer, and is done with the one before, as far as the current stream knows."""

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put keys and values (B, kv_heads, N, head_dim) behind `length`; return views of all up to their end."""
        key_room, value_room = self.room(layer, keys.shape[2])
        key_room.copy_(keys)
        value_room.copy_(values)
        return self.upto(layer, keys.shape[2])

    def room(self, layer: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Views of the `tokens` positions behind `length`, (B, kv_heads, tokens, head_dim), to write to."""
        keys, values = self._layer(layer)
        end = self.length + tokens
        if end > keys.shape[2]:
            raise ValueError(f"no room in the cache: {end} positions of {keys.shape[2]}; call reserve first")
        return keys[:, :, self.length : end], values[:, :, self.length : end]

    def upto(self, layer: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Views of all positions up to `tokens` behind `length`."""
        keys, values = self._layer(layer)
        end = self.length + tokens
        return keys[:, :, :end], values[:, :, :end]


class KVCache(LayerCache):
    """Memory for each layer; both towers read and write it.

    The first `length` positions are kept; what `write` puts behind them stays only if `advance` is called after the
    last layer. A denoising step does not call it, so that the next step overwrites the same positions. Being written in
    place, it is for inference: gradients do not flow through it.
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
        # Zeros, not whatever the memory held: attention kernels load whole tiles, also past the end of the prefix,
        # and 0 · NaN would be NaN.
        self._keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.layers)]
        self._values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.layers)]
        self.length = 0

    @property
    def capacity(self) -> int:
        return self._keys[0].shape[2]

    @property
    def nbytes(self) -> int:
        """Memory of all layers, the room behind `length` included."""
        return sum(tensor.nbytes for tensor in (*self._keys, *self._values))

    def begin(self, layer: int) -> None:
        """Nothing is to be done: each layer has memory of its own."""

    def _layer(self, layer: int) -> tuple[Tensor, Tensor]:
        return self._keys[layer], self._values[layer]

    def addresses(self) -> list[int]:
        """Where each layer's keys and values lie in the device's memory, for kernels that look there themselves."""
        pairs = zip(self._keys, self._values, strict=True)
        return [tensor.data_ptr() for pair in pairs for tensor in pair]

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` positions behind `length`; reallocates one layer at a time if there is none."""
        if self.length + tokens > self.capacity:
            self._reallocate(_round_up(self.length + tokens))

    def truncate(self, length: int) -> None:
        """Keep the first `length` positions; behind them there are zeros again, as in a new cache."""
        if length > self.length:
            raise ValueError(f"no {length} positions to keep: the cache holds {self.length}")
        for tensor in (*self._keys, *self._values):
            tensor[:, :, length:] = 0
        self.length = length

    def trim(self) -> None:
        """Give back the memory behind `length`; reallocates one layer at a time."""
        if _round_up(self.length) < self.capacity:
            self._reallocate(_round_up(self.length))

    def advance(self, tokens: int) -> None:
        """Keep the `tokens` positions last written."""
        self.length += tokens

    def _reallocate(self, capacity: int) -> None:
        for store in (self._keys, self._values):
            for layer, old in enumerate(store):
                batch, heads, _, width = old.shape
                new = old.new_zeros(batch, heads, capacity, width)
                new[:, :, : self.length] = old[:, :, : self.length]
                store[layer] = new


class ScratchCache(LayerCache):
    """Memory for one layer at a time, to draw a picture on top of a prefix that has no room behind it.

    When a layer begins, the prefix's keys and values are copied here, so that attention finds them and those of the
    picture's tokens side by side, with the numbers and the zeros that a `KVCache` has. All that is left of the layer
    before lies where this layer's tokens are going to be written. The prefix must not change meanwhile.
    """

    layers_share = True

    def __init__(self, prefix: KVCache, tokens: int) -> None:
        """With room for so many tokens of a picture."""
        self._prefix = prefix
        self.length = prefix.length
        self._begun: int | None = None
        keys, values = prefix.upto(0, 0)
        batch, heads, _, width = keys.shape
        shape = (batch, heads, _round_up(prefix.length + tokens), width)
        self._keys, self._values = keys.new_zeros(shape), values.new_zeros(shape)

    @property
    def nbytes(self) -> int:
        """Memory besides the prefix's."""
        return self._keys.nbytes + self._values.nbytes

    def begin(self, layer: int) -> None:
        for own, kept in zip((self._keys, self._values), self._prefix.upto(layer, 0), strict=True):
            own[:, :, : self.length] = kept
        self._begun = layer

    def _layer(self, layer: int) -> tuple[Tensor, Tensor]:
        if layer != self._begun:
            raise ValueError(f"layer {layer} has not begun: what is here is layer {self._begun}'s")
        return self._keys, self._values


def _round_up(capacity: int) -> int:
    return -(-capacity // CAPACITY_STEP) * CAPACITY_STEP
