"""Projections: the matrix products of a transformer block, with a weight in the model's dtype or a quantized one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_SCALE = 1e-12
"""The scale of a row of zeros, which avoids a division by zero."""


@dataclass(frozen=True)
class RowFormat:
    """The form in which a quantized projection takes its input rows.

    Attributes:
        dtype: of the quantized numbers: float8_e4m3fn or int8.
        greatest: the magnitude that a row's largest number gets. A row's scale is its greatest magnitude divided by it.
        group: rows are rotated before, in groups of this size, with `rotation.rotate_reversed`. 1: they are not.
    """

    dtype: torch.dtype
    greatest: float
    group: int = 1


@dataclass(frozen=True)
class QuantizedRows:
    """Input rows of a quantized projection: rows ≈ values · scales.

    Attributes:
        values: (N, width), of the dtype in the projection's `input_format`.
        scales: (N, 1), float32.
        dtype: of the rows before, and of products with them.
    """

    values: Tensor
    scales: Tensor
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.values)

    def split(self, rows: int) -> list["QuantizedRows"]:
        """Return parts of `rows` rows each, like `Tensor.split`."""
        parts = zip(self.values.split(rows), self.scales.split(rows), strict=True)
        return [QuantizedRows(values, scales, self.dtype) for values, scales in parts]


Rows = Tensor | QuantizedRows
"""Input of a projection, (N, width): numbers in the model's dtype, or quantized ones with their scales."""


class QuantizedWeight(Protocol):
    """The weight of a projection, or of one projection of several experts. It decides how rows are multiplied."""

    @property
    def weight(self) -> Tensor:
        """(out, in), or (experts, out, in)."""

    @property
    def scale(self) -> Tensor | None:
        """The scale of each row of the weight, (out,) or (experts, out), float32. None for a weight in the model's
        dtype."""

    @property
    def input_format(self) -> RowFormat | None:
        """The form to which operations quantize rows before the product. None: they stay in the model's dtype."""

    @property
    def is_emulated(self) -> bool:
        """True if the device lacks units for this weight. Compiled kernels cannot use it then."""


class QuantizedLinear(QuantizedWeight, Protocol):
    """The interface of a projection. `Projection` has no quantization."""

    def __call__(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out), both in the model's dtype."""

    def multiply(self, rows: Rows) -> Tensor:
        """Rows in `input_format`, (N, in) → (N, out) in the model's dtype."""


class Projection(nn.Linear):
    """A linear layer without bias, in the model's dtype. `QuantizedLinear` describes its attributes."""

    scale: Tensor | None = None
    input_format: RowFormat | None = None
    is_emulated = False

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def multiply(self, rows: Rows) -> Tensor:
        """(N, in) → (N, out)."""
        assert isinstance(rows, Tensor)
        return F.linear(rows, self.weight)


class LogitsInterface:
    """The interface that `lm_head` has besides that of a projection.

    Attributes:
        is_resident: whether the whole weight stays on the device while text is written.
        gather: returns the logits of the whole vocabulary, given those of this rank's part of it. None: this process
            has all of it.
    """

    is_resident = True
    gather: Callable[[Tensor], Tensor] | None = None

    def load_all(self) -> None:
        """Return when the whole weight, which must be resident, is on the device."""

    def parts(self) -> Iterable[QuantizedLinear]:
        """Yield the matrices whose results, one after another, are this process's logits."""
        yield cast(QuantizedLinear, self)

    def complete(self, logits: Tensor) -> Tensor:
        """Return the logits of the whole vocabulary, given those of `parts`."""
        return logits if self.gather is None else self.gather(logits)


class OutputHead(LogitsInterface, Projection):
    """`lm_head`: final hidden state → logits."""

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, hidden_size) → (…, vocabulary)."""
        return self.complete(super().forward(hidden))


def gated(gate_up: Tensor) -> Tensor:
    """(…, 2·I), gate before up → silu(gate) · up, (…, I)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
