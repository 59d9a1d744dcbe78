"""Projections: the matrix products of a transformer block, with a weight in the model's dtype or a quantized one."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class QuantizedRows:
    """Input rows of a quantized projection: rows ≈ values · scales.

    Attributes:
        values: (N, width), of the projection's `input_dtype`.
        scales: (N, 1), float32.
    """

    values: Tensor
    scales: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def split(self, rows: int) -> list["QuantizedRows"]:
        """Return parts of `rows` rows each, like `Tensor.split`."""
        parts = zip(self.values.split(rows), self.scales.split(rows), strict=True)
        return [QuantizedRows(values, scales) for values, scales in parts]


Rows = Tensor | QuantizedRows
"""Input of a projection, (N, width): numbers in the model's dtype, or quantized ones with their scales."""


class QuantizedLinear(Protocol):
    """The interface of a projection, whose weight decides how it multiplies. `Projection` has no quantization."""

    @property
    def weight(self) -> Tensor:
        """(out, in)"""

    @property
    def scale(self) -> Tensor | None:
        """The scale of each row of the weight, (out,), float32. None for a weight in the model's dtype."""

    @property
    def input_dtype(self) -> torch.dtype | None:
        """The dtype to which operations quantize rows for `multiply`. None: they stay in the model's dtype."""

    @property
    def is_emulated(self) -> bool:
        """Whether the device lacks units for this weight, so that compiled kernels cannot use it."""

    def __call__(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out), both in the model's dtype."""

    def multiply(self, rows: Rows) -> Tensor:
        """Rows in `input_dtype`, (N, in) → (N, out) in the model's dtype."""


class Projection(nn.Linear):
    """A linear layer without bias, in the model's dtype. `QuantizedLinear` describes its attributes."""

    scale: Tensor | None = None
    input_dtype: torch.dtype | None = None
    is_emulated = False

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def multiply(self, rows: Rows) -> Tensor:
        """(N, in) → (N, out)."""
        assert isinstance(rows, Tensor)
        return F.linear(rows, self.weight)


class OutputHead(Projection):
    """`lm_head`: final hidden state → logits.

    Attributes:
        is_resident: whether the whole weight stays on the device.
    """

    is_resident = True

    def parts(self) -> Iterable[QuantizedLinear]:
        """Yield the matrices whose results, one after another, are this process's logits."""
        yield self

    def complete(self, logits: Tensor) -> Tensor:
        """Return the logits of the whole vocabulary, given those of `parts`."""
        return logits
