"""Keys and values of a prefix, with room behind them for the tokens of a picture being denoised."""

import torch
from torch import Tensor

from model.network.configuration import TransformerConfig

CAPACITY_STEP = 128
"""Capacities are multiples of this, a usual tile of keys in attention kernels, so that what a kernel loads past the
end of the prefix is the same head's zeros."""


class KVCache:
    """One sequence's keys and values, written in place; both towers read and write it.

    A layer's keys and values are (B, kv_heads, capacity, head_dim). The first `length` positions are kept; what
    `write` puts behind them stays only if `advance` is called after the last layer. A denoising step does not
    call it, so that the next step overwrites the same positions. Being written in place, it is for inference:
    gradients do not flow through it.
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

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put keys and values (B, kv_heads, N, head_dim) behind `length`; return views of all up to their end."""
        key_room, value_room = self.room(layer, keys.shape[2])
        key_room.copy_(keys)
        value_room.copy_(values)
        return self.upto(layer, keys.shape[2])

    def room(self, layer: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Views of the `tokens` positions behind `length`, (B, kv_heads, tokens, head_dim), to write to."""
        end = self.length + tokens
        if end > self.capacity:
            raise ValueError(f"no room in the cache: {end} positions of {self.capacity}; call reserve first")
        return self._keys[layer][:, :, self.length : end], self._values[layer][:, :, self.length : end]

    def upto(self, layer: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Views of all positions up to `tokens` behind `length`."""
        end = self.length + tokens
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

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


def _round_up(capacity: int) -> int:
    return -(-capacity // CAPACITY_STEP) * CAPACITY_STEP
