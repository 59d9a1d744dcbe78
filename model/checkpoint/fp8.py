"""Weights in float8, with one scale per row of the weight and per row of the input.

float8_e4m3fn holds numbers up to 448 with 3 bits of mantissa (Micikevicius et al. 2022, "FP8 formats for deep
learning"). The scale of a row is its greatest magnitude / 448. A weight's scales are computed once, an input's in every
product, so no calibration data is needed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.devices import compute_capability
from model.network.projection import LEAST_SCALE, QuantizedRows, RowFormat, Rows

FP8 = torch.float8_e4m3fn
GREATEST = torch.finfo(FP8).max
FP8_CAPABILITY = (8, 9)
"""Ada: the first GPUs with float8 units."""


class Fp8Linear(nn.Module):
    """A projection with a float8 weight (out, in) and a float32 scale (out,). `QuantizedLinear` describes the rest.

    GPUs with float8 units (compute capability 8.9 and up) multiply in float8. Elsewhere the same numbers are
    multiplied in the input's dtype, which saves memory but no time.
    """

    weight: Tensor
    scale: Tensor
    input_format = RowFormat(FP8, GREATEST)
    weight_dtype = FP8

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
        memory = memory or device
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=FP8, device=memory))
        self.register_buffer("scale", torch.empty(out_features, dtype=torch.float32, device=memory))
        # PyTorch's float8 product needs sizes that are multiples of 16.
        self.is_emulated = not has_fp8_units(device) or in_features % 16 != 0 or out_features % 16 != 0

    def fill(self, weight: Tensor) -> None:
        """Quantize a weight (out, in) of any dtype and store it."""
        quantized = quantize_rows(weight)
        self.weight.copy_(quantized.values)
        self.scale.copy_(quantized.scales[:, 0])

    def load_quantized(self, values: Tensor, scales: Tensor) -> None:
        """Store a weight that is quantized already: values (out, in) in float8, and scales (out,) or (out, 1)."""
        self.weight.copy_(values)
        self.scale.copy_(scales.reshape(-1))

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out), in the dtype of x."""
        return self.multiply(quantize_rows(x.flatten(0, -2))).unflatten(0, x.shape[:-1])

    def multiply(self, rows: Rows) -> Tensor:
        """Quantized rows (N, in) → (N, out), in the dtype of the rows before."""
        assert isinstance(rows, QuantizedRows)
        if not self.is_emulated:
            return torch._scaled_mm(
                rows.values, self.weight.t(), rows.scales, self.scale[None], out_dtype=rows.dtype, use_fast_accum=True
            )
        product = F.linear(rows.values.to(rows.dtype), self.weight.to(rows.dtype))
        return (product.float() * rows.scales * self.scale).to(rows.dtype)


def has_fp8_units(device: torch.device) -> bool:
    """Return whether a device multiplies float8 numbers in this format.

    PyTorch for AMD's GPUs reports their own numbers as the capability, such as (11, 0) for gfx1100, which has no such
    units.
    """
    return torch.version.hip is None and compute_capability(device) >= FP8_CAPABILITY


def quantize_rows(rows: Tensor) -> QuantizedRows:
    """Quantize rows (N, K) to float8."""
    numbers = rows.float()
    scale = (numbers.abs().amax(dim=-1, keepdim=True) / GREATEST).clamp(min=LEAST_SCALE)
    return QuantizedRows((numbers / scale).clamp(-GREATEST, GREATEST).to(FP8), scale, rows.dtype)
