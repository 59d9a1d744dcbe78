"""Weights in int8, rotated, with one scale per row of the weight and per row of the input.

The scale of a row is its greatest magnitude / 127. Rows of weights and inputs are rotated before
(`model.network.rotation`), so that one large number does not cost the other numbers of its row their precision. One
product of Gaussian numbers has a relative error of 0.012, and the same if 1 % of the columns are 20 times as large.
Float8 has 0.037, and int8 without the rotation up to 0.055.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.device_kinds import DeviceKind
from model.network.projection import LEAST_SCALE, LogitsInterface, QuantizedRows, RowFormat, Rows
from model.network.rotation import require_group, reverse_groups, rotate_reversed, rotation_group

INT8 = torch.int8
GREATEST = 127.0
FEW_ROWS = 16
"""Up to this number of rows a CPU multiplies bfloat16 inputs with the int8 weight, because reading the weight takes
most of the time (`python -m benchmarks.int8_cpu`)."""
PART_NUMBERS = 2**24
"""Numbers of a weight that a GPU rotates or converts at once, so that the float32 copy takes at most 64 MiB."""
CPU_PART_NUMBERS = 2**20
"""The same for a CPU, so that the copy stays in its cache: rotating then takes a quarter of the time."""
LEAST_UNIT_ROWS = 32
"""Rows to which an input of cuBLAS's int8 product is padded; it needs more than 16."""


class Int8Linear(nn.Module):
    """A projection with an int8 weight (out, in) and a float32 scale (out,). `QuantizedLinear` describes the rest.

    `weight` contains the columns of each group of the rotation in reverse order, as `rotate_reversed` returns them.
    `load_quantized` and `stored` take and return the order of files.

    GPUs and CPUs with units for int8 products multiply in int8. Other CPUs multiply the same numbers in float32, and
    Apple's GPUs multiply the model's dtype with the int8 numbers, which saves memory but no time.

    Attributes:
        group: columns of a group of the rotation; 1 without rotation.
    """

    weight: Tensor
    scale: Tensor
    weight_dtype = INT8

    def __init__(
        self, out_features: int, in_features: int, device: torch.device, memory: torch.device | None = None
    ) -> None:
        """
        Args:
            device: where the weight will be multiplied.
            memory: where the weight is stored now, if not on the device.
        """
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.group = rotation_group(in_features)
        self.input_format = RowFormat(INT8, GREATEST, self.group)
        memory = memory or device
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=INT8, device=memory))
        self.register_buffer("scale", torch.empty(out_features, dtype=torch.float32, device=memory))
        kind = DeviceKind.of(device)
        fits_units = in_features % 16 == 0 and out_features % 16 == 0
        self.is_emulated = not kind.compiles_kernels or not fits_units
        self._has_units = fits_units and (kind.compiles_kernels or (not kind.is_gpu and torch.cpu._is_vnni_supported()))
        self._rounds_inputs, self._is_cpu = kind.quantizes, not kind.is_gpu

    def fill(self, weight: Tensor) -> None:
        """Rotate and quantize a weight (out, in) of any dtype, and store it."""
        for own, part in self._parts():
            quantized = _quantized(rotate_reversed(weight[own], self.group), weight.dtype)
            self.weight[own] = quantized.values
            part.copy_(quantized.scales[:, 0])

    def load_quantized(self, values: Tensor, scales: Tensor) -> None:
        """Store a weight that is rotated and quantized already.

        Args:
            values: (out, in), int8, as `quantize_weight` returns them and files contain them.
            scales: (out,) or (out, 1).

        Raises:
            ValueError: a shape or dtype is wrong.
        """
        if values.dtype != INT8 or values.shape != self.weight.shape or scales.numel() != self.out_features:
            raise ValueError(
                f"an int8 weight {tuple(self.weight.shape)} cannot hold {values.dtype} {tuple(values.shape)} "
                f"with scales {tuple(scales.shape)}"
            )
        self.weight.copy_(reverse_groups(values, self.group))
        self.scale.copy_(scales.reshape(-1))

    def stored(self) -> tuple[Tensor, Tensor]:
        """Return the weight as files contain it: values (out, in), int8, and scales (out,), float32."""
        return reverse_groups(self.weight, self.group), self.scale.clone()

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out), in the dtype of x."""
        rows = x.flatten(0, -2)
        rotated = rotate_reversed(rows, self.group)
        if self._rounds_inputs and not (self._is_cpu and len(rows) <= FEW_ROWS):
            product = self.multiply(_quantized(rotated, x.dtype))
        else:
            product = self._multiply_unquantized(rotated, x.dtype)
        return product.unflatten(0, x.shape[:-1])

    def multiply(self, rows: Rows) -> Tensor:
        """Rotated and quantized rows (N, in) → (N, out), in the dtype of the rows before."""
        assert isinstance(rows, QuantizedRows)
        values, count = rows.values, len(rows)
        if not self._has_units:
            values = values.float()
        elif not self._is_cpu and count < LEAST_UNIT_ROWS:
            values = F.pad(values, (0, 0, 0, LEAST_UNIT_ROWS - count))
        out = torch.empty(count, self.out_features, dtype=rows.dtype, device=values.device)
        for own, scale in self._parts():
            if self._has_units:
                product = torch._int_mm(values, self.weight[own].t())[:count].float()
            else:
                product = F.linear(values, self.weight[own].float())
            out[:, own] = product * rows.scales * scale
        return out

    def _multiply_unquantized(self, rotated: Tensor, dtype: torch.dtype) -> Tensor:
        """Rotated rows (N, in), float32 → (N, out). Only the weight is quantized."""
        if self._is_cpu and self.in_features % 16 == 0:
            # Its fast kernel is for bfloat16 only. The scales follow in float32, because they would lose bits.
            ones = torch.ones(self.out_features, dtype=torch.bfloat16)
            product = torch._weight_int8pack_mm(rotated.to(torch.bfloat16), self.weight, ones)
            return (product.float() * self.scale).to(dtype)
        out = torch.empty(len(rotated), self.out_features, dtype=dtype, device=rotated.device)
        rows = rotated.to(dtype)
        for own, scale in self._parts():
            out[:, own] = F.linear(rows, self.weight[own].to(dtype)).float() * scale
        return out

    def _parts(self) -> Iterable[tuple[slice, Tensor]]:
        """Yield runs of the weight's rows, each with its scales."""
        for own in _row_runs(self.out_features, self.in_features, self._is_cpu):
            yield own, self.scale[own]


class Int8Head(LogitsInterface, Int8Linear):
    """`lm_head` in int8."""

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, hidden_size) → (…, vocabulary)."""
        return self.complete(super().forward(hidden))


def quantize_weight(weight: Tensor, group: int) -> QuantizedRows:
    """Return a weight (out, in) rotated and quantized as files contain it: int8, and scales (out, 1).

    Equal weights give equal bits on every kind of device.

    Raises:
        ValueError: the group is not a power of 4, or does not divide the width.
    """
    rows, width = weight.shape
    require_group(width, group)
    values = torch.empty(rows, width, dtype=INT8, device=weight.device)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=weight.device)
    for own in _row_runs(rows, width, not DeviceKind.of(weight.device).is_gpu):
        quantized = _quantized(rotate_reversed(weight[own], group), weight.dtype)
        values[own] = reverse_groups(quantized.values, group)
        scales[own] = quantized.scales
    return QuantizedRows(values, scales, weight.dtype)


def _row_runs(rows: int, width: int, is_cpu: bool) -> Iterable[slice]:
    """Yield runs of a weight's rows, each of about `CPU_PART_NUMBERS` or `PART_NUMBERS` numbers."""
    numbers = CPU_PART_NUMBERS if is_cpu else PART_NUMBERS
    step = max(16, numbers // width // 16 * 16)
    for first in range(0, rows, step):
        yield slice(first, first + step)


def _quantized(rotated: Tensor, dtype: torch.dtype) -> QuantizedRows:
    """Quantize rotated rows (N, K), float32, to int8."""
    scales = (rotated.abs().amax(dim=-1, keepdim=True) / GREATEST).clamp(min=LEAST_SCALE)
    values = (rotated / scales).round_().clamp_(-GREATEST, GREATEST).to(INT8)
    return QuantizedRows(values, scales, dtype)
