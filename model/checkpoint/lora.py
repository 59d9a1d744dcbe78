"""LoRAs: low-rank updates of a checkpoint's matrices, merged in float32 while the matrices are read.

W + strength · alpha/rank · up · down (Hu et al. 2021, arXiv:2106.09685). To replace the LoRAs of a loaded model, the
matrices that they update are reloaded. So without LoRAs the weights are exactly those of the files again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint.layout import ParameterSlice, checkpoint_layout
from model.checkpoint.lora_files import find_lora, opened_lora, recommended_settings
from model.checkpoint.lora_names import LayerNames, Part, split_name
from model.checkpoint.lora_scaling import Scaling, read_scaling
from model.checkpoint.named_lora import NamedLora
from model.checkpoint.stored_tensor import TensorPart
from model.checkpoint.tensor_names import format_names
from model.errors import CheckpointError
from model.network.configuration import ModelConfig

MOST_NAMES = 8
"""Lines of names in a message."""
FLOATS = ("F64", "F32", "F16", "BF16")
"""Number formats of safetensors files that can be merged as they are."""


@dataclass(frozen=True)
class LowRankUpdate:
    """The update scale · up · down of one matrix, with down (rank, in) and up (out, rank)."""

    down: Tensor
    up: Tensor
    scale: float

    def of(self, part: TensorPart) -> "LowRankUpdate":
        """Return the update of a part of the matrix."""
        start, stop = part.start, part.start + part.count
        if part.axis == 1:
            width = math.prod(part.tensor.shape[2:])  # elements per input channel of a convolution
            return LowRankUpdate(self.down[:, start * width : stop * width], self.up, self.scale)
        return LowRankUpdate(self.down, self.up[start:stop], self.scale)


@dataclass(frozen=True)
class Adapter:
    """A LoRA that has been read.

    Attributes:
        updates: official name of a tensor → its update.
        settings: the settings that the LoRA's metadata recommend.
    """

    lora: NamedLora
    updates: Mapping[str, LowRankUpdate] = field(repr=False)
    settings: Mapping[str, Any]


def read_adapter(lora: NamedLora, layout: Mapping[str, ParameterSlice]) -> Adapter:
    """Read a LoRA and compare it with the tensors of a checkpoint.

    Args:
        layout: `checkpoint_layout` of the checkpoint's configuration.

    Raises:
        CheckpointError: the file cannot be read, is not a LoRA, or has tensors that do not fit the checkpoint.
    """
    file = find_lora(lora.name)
    with opened_lora(file, "pt") as stored:
        _require_floats(stored, file)
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        metadata = stored.metadata() or {}
        settings = recommended_settings(metadata, file)
    found = _Found(tensors, layout)
    if problems := found.problems(layout):
        raise CheckpointError(
            f"{file} does not fit this model\n" + "\n".join(problems),
            "use a LoRA that was made for this model, with names of layers as in docs/checkpoints.md",
        )
    scaling = read_scaling(file, metadata) if found.has_peft_names else Scaling()
    updates = {}
    for layer, parts in found.layers.items():
        down, up = parts["down"].flatten(1), parts["up"].flatten(1)
        alpha = float(parts["alpha"]) if "alpha" in parts else None
        factor = scaling.factor(found.names[layer], down.shape[0], alpha)
        updates[f"{layer}.weight"] = LowRankUpdate(down, up, lora.strength * factor)
    return Adapter(lora, updates, settings)


def _require_floats(stored: Any, file: Path) -> None:
    """Raise CheckpointError if an opened LoRA has quantized matrices."""
    formats = {key: stored.get_slice(key).get_dtype() for key in stored.keys()}  # noqa: SIM118
    quantized = [key for key, format in formats.items() if split_name(key) and format not in FLOATS]
    quantized = [key for key in quantized if not key.endswith(".alpha")]
    if quantized:
        names = ", ".join(sorted({formats[key] for key in quantized}))
        raise CheckpointError(
            f"{file} is a quantized LoRA: {len(quantized)} of its tensors are stored as {names}\n"
            + format_names(quantized, MOST_NAMES),
            "use the same LoRA in bfloat16, float16 or float32: quantized ones are not read",
        )


def read_adapters(loras: Sequence[NamedLora], config: ModelConfig) -> tuple[Adapter, ...]:
    """Read LoRAs for a checkpoint of this configuration; errors as for `read_adapter`."""
    layout = checkpoint_layout(config)
    return tuple(read_adapter(lora, layout) for lora in loras)


def updated_tensors(adapters: Sequence[Adapter]) -> set[str]:
    """Return the official names of the tensors that adapters update."""
    return {name for adapter in adapters for name in adapter.updates}


class AdapterMerger:
    """Merges adapters into tensors while they are read, chunk by chunk. Several threads may use it."""

    def __init__(self, adapters: Sequence[Adapter], device: torch.device, parts: Mapping[str, TensorPart]) -> None:
        """
        Args:
            device: where updates are computed.
            parts: the part of each tensor that is read; a tensor that is not in it is read as a whole.
        """
        self._updates: dict[str, list[LowRankUpdate]] = {}
        for adapter in adapters:
            for name, whole in adapter.updates.items():
                update = whole.of(parts[name]) if name in parts else whole
                on_device = LowRankUpdate(update.down.to(device).float(), update.up.to(device).float(), update.scale)
                self._updates.setdefault(name, []).append(on_device)

    def merge(self, name: str, first: int, numbers: Tensor) -> Tensor:
        """Return a chunk with the updates added, in float32 on the device; the chunk itself if there are none.

        Args:
            name: official name of the tensor.
            first: number of the chunk's first element in the tensor, or in the part of it that is read.
        """
        updates = self._updates.get(name)
        if not updates:
            return numbers
        columns = updates[0].down.shape[1]
        end = first + numbers.numel()
        rows = slice(first // columns, math.ceil(end / columns))
        skipped = first - rows.start * columns
        result = numbers.to(updates[0].up.device).float()
        for update in updates:
            product = (update.up[rows] @ update.down).flatten()[skipped : skipped + numbers.numel()]
            result = result + update.scale * product
        return result


class _Found:
    """The tensors of a file, by the layers that they update.

    Attributes:
        layers: official name of a layer, or its name in the file if the model does not have it → parts.
        names: the same keys → names in the file.
        has_peft_names: some names are PEFT's.
    """

    def __init__(self, tensors: Mapping[str, Tensor], layout: Mapping[str, ParameterSlice]) -> None:
        known = LayerNames({name.removesuffix(".weight") for name in layout if name.endswith(".weight")})
        self.layers: dict[str, dict[Part, Tensor]] = {}
        self.names: dict[str, str] = {}
        self.has_peft_names = any(".lora_A." in key for key in tensors)
        self._others, self._twice = [], []
        for key, tensor in tensors.items():
            split = split_name(key)
            if split is None:
                self._others.append(key)
                continue
            name, part = split
            layer = known.official(name) or name
            if part in self.layers.setdefault(layer, {}):
                self._twice.append(key)
            self.layers[layer][part] = tensor
            self.names.setdefault(layer, name)

    def problems(self, layout: Mapping[str, ParameterSlice]) -> list[str]:
        """Return all reasons why the file does not fit a checkpoint, as lines of text."""
        if not self.layers:
            has = format_names(self._others, MOST_NAMES) or "  nothing"
            return ["it has no LoRA tensors (.lora_down and .lora_up, or .lora_A and .lora_B); it has:", has]
        layers = self.layers
        complete = {layer: parts for layer, parts in layers.items() if {"down", "up"} <= set(parts)}
        alphas = {layer: parts["alpha"] for layer, parts in layers.items() if "alpha" in parts}
        misshapen = []
        for layer, parts in complete.items():
            if f"{layer}.weight" not in layout:
                continue
            shape, down, up = layout[f"{layer}.weight"].shape, parts["down"], parts["up"]
            wanted = shape[0], math.prod(shape[1:])
            given = (*up.shape[:1], math.prod(down.shape[1:]))
            if up.dim() < 2 or down.dim() < 2 or math.prod(up.shape[1:]) != down.shape[0] or given != wanted:
                misshapen.append(f"{layer}: up {list(up.shape)}, down {list(down.shape)}, matrix {list(wanted)}")
        lines = []
        for title, names in (
            ("of layers that the model does not have", [n for n in layers if f"{n}.weight" not in layout]),
            ("without one of their two matrices", [layer for layer in layers if layer not in complete]),
            ("of rank 0", [n for n, parts in layers.items() if any(part.numel() == 0 for part in parts.values())]),
            ("whose alpha is not one finite number", [n for n, alpha in alphas.items() if not _is_number(alpha)]),
            ("of another shape", misshapen),
            ("that update the same layer again", self._twice),
            ("that do not belong to a LoRA", self._others),
        ):
            if names:
                lines += [f"{len(names)} {title}:", format_names(names, MOST_NAMES)]
        return lines


def _is_number(alpha: Tensor) -> bool:
    return alpha.numel() == 1 and math.isfinite(float(alpha))
