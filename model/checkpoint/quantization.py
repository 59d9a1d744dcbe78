"""Quantized weights: projections in float8, with one scale per row of the weight and per row of the input.

float8_e4m3fn holds numbers up to 448 with 3 bits of mantissa (Micikevicius et al. 2022, "FP8 formats for deep
learning"). The scale of a row is its greatest magnitude / 448. A weight's scales are computed once, an input's in every
product, so no calibration data is needed.
"""

import threading
from collections.abc import Collection, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.device_kinds import DeviceKind
from model.devices import compute_capability
from model.errors import DeviceError
from model.network.projection import QuantizedRows, Rows
from model.network.sensenova import SenseNovaU1

FP8 = torch.float8_e4m3fn
GREATEST = torch.finfo(FP8).max
LEAST_SCALE = 1e-12
"""The scale of a row of zeros, which avoids a division by zero."""
FP8_CAPABILITY = (8, 9)
"""Ada: the first GPUs with float8 units."""

QUANTIZED_TOWERS: dict[str, tuple[str, ...]] = {"off": (), "fp8": ("gen",), "fp8-all": ("gen", "und")}
"""For each value of the setting `quantization`, the towers whose projections are quantized."""


def resolve_quantization(name: str, device: torch.device, dtype: torch.dtype) -> tuple[str, ...]:
    """Return the towers whose projections are quantized.

    Raises:
        DeviceError: the quantization is unknown, or this device or dtype does not support it.
    """
    if name not in QUANTIZED_TOWERS:
        raise DeviceError(f"there is no quantization {name!r}", f"use {', '.join(QUANTIZED_TOWERS)}")
    towers = QUANTIZED_TOWERS[name]
    if towers and not DeviceKind.of(device).quantizes:
        raise DeviceError("Apple's GPUs have no eight-bit numbers", "use `quantization=off`, or `device=cpu`")
    if towers and dtype != torch.bfloat16:
        raise DeviceError(
            f"quantization {name} works with bfloat16, not with {str(dtype).removeprefix('torch.')}",
            "use `dtype=bfloat16`, or `quantization=off`",
        )
    return towers


class Fp8Linear(nn.Module):
    """A projection with a float8 weight (out, in) and a float32 scale (out,). `QuantizedLinear` describes the rest.

    GPUs with float8 units (compute capability 8.9 and up) multiply in float8. Elsewhere the same numbers are
    multiplied in the input's dtype, which saves memory but no time.
    """

    weight: Tensor
    scale: Tensor
    input_dtype = FP8

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

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out), in the dtype of x."""
        return self._product(quantize_rows(x.flatten(0, -2)), x.dtype).unflatten(0, x.shape[:-1])

    def multiply(self, rows: Rows) -> Tensor:
        """Quantized rows (N, in) → (N, out), bfloat16."""
        assert isinstance(rows, QuantizedRows)
        return self._product(rows, torch.bfloat16)

    def _product(self, rows: QuantizedRows, dtype: torch.dtype) -> Tensor:
        if not self.is_emulated:
            return torch._scaled_mm(
                rows.values, self.weight.t(), rows.scales, self.scale[None], out_dtype=dtype, use_fast_accum=True
            )
        product = F.linear(rows.values.to(dtype), self.weight.to(dtype))
        return (product.float() * rows.scales * self.scale).to(dtype)


def has_fp8_units(device: torch.device) -> bool:
    """Return whether a device multiplies float8 numbers."""
    return compute_capability(device) >= FP8_CAPABILITY


def quantize_rows(rows: Tensor) -> QuantizedRows:
    """Quantize rows (N, K) to float8."""
    numbers = rows.float()
    scale = (numbers.abs().amax(dim=-1, keepdim=True) / GREATEST).clamp(min=LEAST_SCALE)
    return QuantizedRows((numbers / scale).clamp(-GREATEST, GREATEST).to(FP8), scale)


def quantized_layers(network: SenseNovaU1, towers: Collection[str]) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Yield the layers to quantize, the projections in the towers' blocks: parent module, attribute and layer."""
    # Names only, so that a replaced layer is freed.
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    for name in names:
        parent, _, attribute = name.rpartition(".")
        if name.startswith(tuple(f"{tower}.blocks." for tower in towers)) and attribute.endswith("_proj"):
            layer = network.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            yield network.get_submodule(parent), attribute, layer


def quantize_network(network: SenseNovaU1, towers: Collection[str]) -> None:
    """Replace a filled network's projections, one after another."""
    for parent, attribute, layer in quantized_layers(network, towers):
        quantized = Fp8Linear(layer.out_features, layer.in_features, layer.weight.device)
        quantized.fill(layer.weight)
        setattr(parent, attribute, quantized)


def empty_quantized(
    network: SenseNovaU1, towers: Collection[str], device: torch.device, memory: torch.device | None = None
) -> None:
    """Replace the projections of a network without memory by empty quantized ones; arguments as for `Fp8Linear`."""
    for parent, attribute, layer in quantized_layers(network, towers):
        setattr(parent, attribute, Fp8Linear(layer.out_features, layer.in_features, device, memory))


class Staging:
    """Weights that wait until all their numbers have been read and they can be quantized. Safe for several threads."""

    def __init__(self, layers: dict[str, Fp8Linear], dtype: torch.dtype) -> None:
        """
        Args:
            layers: quantized layers by the name of the parameter that fills them.
            dtype: of the numbers before quantization.
        """
        self._layers = layers
        self._dtype = dtype
        self._waiting: dict[str, tuple[Tensor, list[int]]] = {}
        self._lock = threading.Lock()

    def require_empty(self) -> None:
        """Raise RuntimeError if a weight still misses numbers, which is a mistake of the caller."""
        if self._waiting:
            raise RuntimeError(f"incomplete weights: {', '.join(self._waiting)}")

    def place(self, name: str, first: int, data: Tensor, *, non_blocking: bool = False) -> None:
        """Store numbers of parameter `name` from element `first` on. The last numbers make it quantize the weight."""
        layer = self._layers[name]
        with self._lock:
            if name not in self._waiting:
                weight = torch.empty(layer.weight.shape, dtype=self._dtype, device=layer.weight.device)
                self._waiting[name] = weight, [weight.numel()]
            weight, missing = self._waiting[name]
        weight.view(-1)[first : first + data.numel()].copy_(data, non_blocking=non_blocking)
        with self._lock:
            missing[0] -= data.numel()
            complete = missing[0] == 0
            if complete:
                del self._waiting[name]
        if complete:
            layer.fill(weight)
