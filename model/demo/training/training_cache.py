"""The KV cache of the training, through which gradients flow."""

import torch
from torch import Tensor

from model.network.cache import KVCache


class TrainingCache(KVCache):
    """A KV cache whose tensors are nodes of the autograd graph. It stores the keys and values of the und tower only."""

    def __init__(self) -> None:
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._complete = False
        self._visible: tuple[Tensor, Tensor] | None = None

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Store the prefix's keys and values. Once it is complete, append a picture's without storing them."""
        if self._complete:
            keys, values = (
                torch.cat([before, new], dim=2)
                for before, new in ((self._keys[layer], keys), (self._values[layer], values))
            )
        else:
            self._keys.append(keys)
            self._values.append(values)
        self._visible = keys, values

    def upto(self, layer: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values that `write` has just stored or joined for this layer."""
        assert self._visible is not None
        return self._visible

    @property
    def prefix_length(self) -> int:
        return self._keys[0].shape[2]

    def first_rows(self, rows: int) -> "TrainingCache":
        """Return a complete cache of the first rows, to which the tokens of pictures can be appended."""
        part = TrainingCache()
        part._keys = [keys[:rows] for keys in self._keys]
        part._values = [values[:rows] for values in self._values]
        part._complete = True
        return part
