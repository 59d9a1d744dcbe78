"""Quantized weights: the setting `quantization`, and networks whose projections are quantized.

`fp8.py` and `int8.py` describe the two formats. Both have one scale per row of a weight.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from config.mentions import mention
from model.checkpoint.fp8 import Fp8Linear, has_fp8_units
from model.checkpoint.int8 import Int8Head, Int8Linear
from model.checkpoint.quantized_experts import QuantizedExperts
from model.device_kinds import DeviceKind
from model.devices import compute_capability
from model.errors import DeviceError
from model.network.configuration import ModelConfig
from model.network.experts import StackedProjection
from model.network.rotation import rotation_group
from model.network.sensenova import SenseNovaU1

QuantizedLayer = Fp8Linear | Int8Linear | QuantizedExperts
LAYERS: dict[str, type[Fp8Linear | Int8Linear]] = {"fp8": Fp8Linear, "int8": Int8Linear}
"""The class of a quantized projection, by format."""
INT8_CAPABILITY = (7, 5)
"""Turing: the first GPUs with units for int8 products."""
DTYPES = {"fp8": (torch.bfloat16,), "int8": (torch.bfloat16, torch.float32)}
"""The dtypes of a model that each format works with."""


@dataclass(frozen=True)
class Quantization:
    """The weights that are quantized, and their format.

    Attributes:
        format: `fp8`, `int8`, or empty if no weight is quantized.
        towers: the towers, `gen` or `und`, whose projections are quantized, also those of experts.
        head: whether `lm_head` is quantized.
    """

    format: str = ""
    towers: tuple[str, ...] = ()
    head: bool = False

    def __bool__(self) -> bool:
        return bool(self.towers)


OFF = Quantization()
QUANTIZATIONS = {
    "off": OFF,
    "fp8": Quantization("fp8", ("gen",)),
    "fp8-all": Quantization("fp8", ("gen", "und")),
    "int8": Quantization("int8", ("gen",)),
    "int8-all": Quantization("int8", ("gen", "und"), head=True),
}
"""The quantization for each value of the setting."""


def resolve_quantization(name: str, device: torch.device, dtype: torch.dtype) -> Quantization:
    """Return the weights to quantize.

    Raises:
        DeviceError: the quantization is unknown, or this device or dtype does not support it.
    """
    if name not in QUANTIZATIONS:
        raise DeviceError(f"there is no quantization {name!r}", f"use {', '.join(QUANTIZATIONS)}")
    quantization, kind = QUANTIZATIONS[name], DeviceKind.of(device)
    if not quantization:
        return quantization
    number_format = str(dtype).removeprefix("torch.")
    if quantization.format == "fp8" and not kind.quantizes:
        raise DeviceError(
            "Apple's GPUs have no float8 numbers", f"use {mention('quantization', name.replace('fp8', 'int8'))}"
        )
    capability = compute_capability(device)
    if quantization.format == "int8" and kind.compiles_kernels and capability < INT8_CAPABILITY:
        own, needed = (".".join(map(str, each)) for each in (capability, INT8_CAPABILITY))
        raise DeviceError(
            f"this GPU has no eight-bit units (compute capability {own}; from {needed} on)",
            "use `quantization=off` with `offload=layers`",
        )
    possible = [str(each).removeprefix("torch.") for each in DTYPES[quantization.format]]
    if number_format not in possible:
        raise DeviceError(
            f"quantization {name} works with {' and '.join(possible)}, not with {number_format}",
            f"use {mention('dtype', possible[0])}, or `quantization=off`",
        )
    return quantization


def require_whole_groups(config: ModelConfig, count: int, quantization: Quantization) -> None:
    """Raise DeviceError unless `count` ranks can share the network without splitting a group of int8's rotation."""
    width = unsplittable_width(config, count, quantization)
    if width is not None:
        raise DeviceError(
            f"tensor_parallel_size {count}: int8 rotates {width} columns of a weight in groups of "
            f"{rotation_group(width)}, and {width // count} columns on each rank are not whole groups",
            "use fewer ranks, or `quantization=off`",
        )


def unsplittable_width(config: ModelConfig, count: int, quantization: Quantization) -> int | None:
    """Return the columns of a weight that `count` ranks cannot share without splitting a group of the rotation, or
    None. Ranks share the columns of the projections out of attention and out of the MLPs."""
    if quantization.format != "int8":
        return None
    transformer = config.transformer
    widths = [transformer.heads * transformer.head_dim]
    widths += [transformer.gen_mlp.intermediate_size, transformer.und_mlp.intermediate_size]
    return next((width for width in widths if width // count % rotation_group(width)), None)


def quantization_note(quantization: Quantization, device: torch.device) -> str | None:
    """Return a notice for the user if a format saves memory but no time on a device, else None."""
    kind = DeviceKind.of(device)
    if quantization.format == "int8" and not kind.quantizes:
        return "int8 saves memory on Apple's GPUs, and no time"
    if quantization.format == "fp8" and kind.compiles_kernels and not has_fp8_units(device):
        return (
            "float8 is multiplied as bfloat16 on this GPU, which saves memory and no time; "
            "`quantization=int8` saves both"
        )
    return None


def format_advice(device: torch.device) -> str:
    """Return a sentence that names the eight-bit format that suits a device."""
    kind = DeviceKind.of(device)
    if has_fp8_units(device):
        return "`quantization=fp8` and `quantization=int8` save memory and time on this GPU"
    if kind.compiles_kernels and compute_capability(device) < INT8_CAPABILITY:
        return "this GPU has no eight-bit units, so eight-bit weights save no time"
    if kind.compiles_kernels:
        return "`quantization=int8` saves memory and time on this GPU"
    if kind.is_gpu:
        return "`quantization=int8` saves memory on this GPU, and no time"
    if torch.cpu._is_vnni_supported():
        return "`quantization=int8` saves memory and time on this CPU"
    return "`quantization=int8` saves memory on this CPU, and time for text only"


def quantized_layers(
    network: SenseNovaU1, quantization: Quantization
) -> Iterator[tuple[nn.Module, str, nn.Linear | StackedProjection, Callable[..., QuantizedLayer]]]:
    """Yield the layers to quantize, the projections in the towers' blocks and perhaps `lm_head`: parent module,
    attribute, layer, and the function that makes its replacement of the same sizes, without numbers."""
    # Names only, so that a replaced layer is freed.
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | StackedProjection)]
    for name in names:
        parent, _, attribute = name.rpartition(".")
        is_head = name == "lm_head" and quantization.head
        in_tower = name.startswith(tuple(f"{tower}.blocks." for tower in quantization.towers))
        if is_head or (in_tower and attribute.endswith("_proj")):
            layer = network.get_submodule(name)
            assert isinstance(layer, nn.Linear | StackedProjection)
            made: Callable[..., QuantizedLayer] = Int8Head if is_head else LAYERS[quantization.format]
            if isinstance(layer, StackedProjection):
                made = partial(QuantizedExperts, LAYERS[quantization.format], layer.experts)
            yield network.get_submodule(parent), attribute, layer, made


def quantize_network(network: SenseNovaU1, quantization: Quantization) -> None:
    """Replace a filled network's projections, one after another."""
    for parent, attribute, layer, made in quantized_layers(network, quantization):
        quantized = made(layer.out_features, layer.in_features, layer.weight.device)
        quantized.fill(layer.weight)
        setattr(parent, attribute, quantized)


def empty_quantized(
    network: SenseNovaU1, quantization: Quantization, device: torch.device, memory: torch.device | None = None
) -> None:
    """Replace the projections of a network without memory by empty quantized ones.

    Args:
        device: where the weights will be multiplied.
        memory: where the weights of blocks are stored now, if not on the device. `lm_head` is on the device.
    """
    for parent, attribute, layer, made in quantized_layers(network, quantization):
        own_memory = device if made is Int8Head else memory
        setattr(parent, attribute, made(layer.out_features, layer.in_features, device, own_memory))


class Staging:
    """Weights that wait until all their numbers have been read and they can be quantized. Safe for several threads.

    Experts are quantized one by one, each as soon as its numbers have been read.
    """

    def __init__(
        self, layers: Mapping[str, QuantizedLayer], dtype: torch.dtype, scales: Mapping[str, Tensor] | None = None
    ) -> None:
        """
        Args:
            layers: quantized layers by the name of the parameter that fills them.
            dtype: of the numbers before quantization.
            scales: of the weights that are stored quantized, so that their numbers are only copied.
        """
        self._layers = layers
        self._dtype = dtype
        self._scales = scales or {}
        self._waiting: dict[tuple[str, int], tuple[Tensor, list[int]]] = {}  # by parameter and expert
        self._lock = threading.Lock()

    def require_empty(self) -> None:
        """Raise RuntimeError if a weight still misses numbers, which is a mistake of the caller."""
        if self._waiting:
            raise RuntimeError(f"incomplete weights: {', '.join(sorted({name for name, _ in self._waiting}))}")

    def place(self, name: str, first: int, data: Tensor, *, non_blocking: bool = False) -> None:
        """Store numbers of parameter `name` from element `first` on. They belong to one matrix, that is to one expert.
        The last numbers of a matrix make it quantize the matrix."""
        layer = self._layers[name]
        shape = layer.weight.shape[-2:]
        number, first = divmod(first, shape.numel())
        key = name, number
        with self._lock:
            if key not in self._waiting:
                dtype = layer.weight.dtype if name in self._scales else self._dtype
                self._waiting[key] = torch.empty(shape, dtype=dtype, device=layer.weight.device), [shape.numel()]
            weight, missing = self._waiting[key]
        weight.view(-1)[first : first + data.numel()].copy_(data, non_blocking=non_blocking)
        with self._lock:
            missing[0] -= data.numel()
            complete = missing[0] == 0
            if complete:
                del self._waiting[key]
        if not complete:
            return
        matrix = layer.expert(number) if isinstance(layer, QuantizedExperts) else layer
        if name in self._scales:
            matrix.load_quantized(weight, self._scales[name][number * shape[0] : (number + 1) * shape[0]])
        else:
            matrix.fill(weight)
