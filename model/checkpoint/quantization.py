"""Eight-bit weights: linear layers whose rows are float8 numbers with one scale each, and so are their inputs' rows.

float8_e4m3fn holds up to 448 with 3 bits of mantissa (Micikevicius et al. 2022, "FP8 formats for deep learning"). A
row's scale is its greatest magnitude / 448; of weights it is found once, of inputs anew each time, so that no
calibration data are needed.
"""

import threading
from collections.abc import Collection, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.errors import DeviceError
from model.network.sensenova import SenseNovaU1

FP8 = torch.float8_e4m3fn
GREATEST = torch.finfo(FP8).max
LEAST_SCALE = 1e-12
"""Keeps a row of zeros from being divided by zero."""

QUANTIZED_TOWERS: dict[str, tuple[str, ...]] = {"off": (), "fp8": ("gen",), "fp8-all": ("gen", "und")}
"""The setting `quantization`: the towers whose projections become eight-bit."""


def resolve_quantization(name: str, device: torch.device, dtype: torch.dtype) -> tuple[str, ...]:
    """The towers that become eight-bit.

    Raises:
        DeviceError: there is no such quantization, or not for this device or number format.
    """
    if name not in QUANTIZED_TOWERS:
        raise DeviceError(f"there is no quantization {name!r}", f"use {', '.join(QUANTIZED_TOWERS)}")
    towers = QUANTIZED_TOWERS[name]
    if towers and device.type == "mps":
        raise DeviceError("Apple's GPUs have no eight-bit numbers", "use `quantization=off`, or `device=cpu`")
    if towers and dtype != torch.bfloat16:
        raise DeviceError(
            f"quantization {name} works with bfloat16, not with {str(dtype).removeprefix('torch.')}",
            "use `dtype=bfloat16`, or `quantization=off`",
        )
    return towers


class Fp8Linear(nn.Module):
    """A linear layer without bias: weight (out, in) float8, scale (out,) float32.

    GPUs with float8 units (compute capability 8.9 and up) multiply in float8. Elsewhere the same numbers are
    multiplied in the input's type, which saves memory and no time.
    """

    weight: Tensor
    scale: Tensor

    def __init__(
        self, out_features: int, in_features: int, device: torch.device, memory: torch.device | None = None
    ) -> None:
        """memory: where the numbers lie, if not on the device where they will be multiplied."""
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        memory = memory or device
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=FP8, device=memory))
        self.register_buffer("scale", torch.empty(out_features, dtype=torch.float32, device=memory))
        # PyTorch's float8 product takes whole multiples of 16.
        self.in_hardware = has_fp8_units(device) and in_features % 16 == 0 and out_features % 16 == 0

    def fill(self, weight: Tensor) -> None:
        """Take in a weight (out, in) of any type."""
        quantized, scale = quantize_rows(weight)
        self.weight.copy_(quantized)
        self.scale.copy_(scale[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) bfloat16 → (…, out)."""
        return self.multiply(*quantize_rows(x.flatten(0, -2)), x.dtype).unflatten(0, x.shape[:-1])

    def multiply(self, rows: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows as from `quantize_rows`, (N, in) and (N, 1) → (N, out) of `dtype`."""
        if self.in_hardware:
            return torch._scaled_mm(
                rows, self.weight.t(), scale, self.scale[None], out_dtype=dtype, use_fast_accum=True
            )
        product = F.linear(rows.to(dtype), self.weight.to(dtype))
        return (product.float() * scale * self.scale).to(dtype)


def has_fp8_units(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) → the same numbers as float8, and each row's scale (N, 1), float32: rows ≈ float8 · scale."""
    numbers = rows.float()
    scale = (numbers.abs().amax(dim=-1, keepdim=True) / GREATEST).clamp(min=LEAST_SCALE)
    return (numbers / scale).clamp(-GREATEST, GREATEST).to(FP8), scale


def quantized_layers(network: SenseNovaU1, towers: Collection[str]) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """The layers that become eight-bit: parent, name there and layer of each projection in the blocks."""
    # Names alone, so that a layer that has been replaced is let go of.
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
    """Replace the projections of a network without memory by eight-bit ones, which are to be filled; arguments as for
    `Fp8Linear`."""
    for parent, attribute, layer in quantized_layers(network, towers):
        setattr(parent, attribute, Fp8Linear(layer.out_features, layer.in_features, device, memory))


class Staging:
    """Weights on their way to eight bits: each waits until all its numbers are there. Made for several threads."""

    def __init__(self, layers: dict[str, Fp8Linear], dtype: torch.dtype) -> None:
        """layers: by the name of the parameter that fills them."""
        self._layers = layers
        self._dtype = dtype
        self._waiting: dict[str, tuple[Tensor, list[int]]] = {}
        self._lock = threading.Lock()

    def require_empty(self) -> None:
        """Raise RuntimeError if a weight still waits for numbers, which would be a mistake of the caller's."""
        if self._waiting:
            raise RuntimeError(f"incomplete weights: {', '.join(self._waiting)}")

    def place(self, name: str, first: int, data: Tensor, *, non_blocking: bool = False) -> None:
        """Put numbers into parameter `name` from element `first` on; the last ones turn it into eight bits."""
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
