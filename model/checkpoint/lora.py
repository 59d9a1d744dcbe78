"""LoRAs: low-rank updates of a checkpoint's matrices, merged in float32 while the matrices are read.

W + strength · alpha/rank · up · down (Hu et al. 2021, arXiv:2106.09685). To replace the LoRAs of a loaded model, the
matrices that they update are reloaded. So without LoRAs the weights are exactly those of the files again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from model.checkpoint.layout import ParameterSlice, checkpoint_layout
from model.checkpoint.lora_files import find_lora, opened_lora, recommended_settings
from model.checkpoint.named_lora import NamedLora
from model.checkpoint.safetensors_files import TensorPart
from model.checkpoint.tensor_names import format_names
from model.errors import CheckpointError
from model.network.configuration import ModelConfig

PREFIX = "diffusion_model."
"""Prefix of every name in some files."""
PARTS = (".lora_down.weight", ".lora_up.weight", ".alpha")


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
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        settings = recommended_settings(stored.metadata() or {}, file)
    groups: dict[str, dict[str, Tensor]] = {}
    other_keys = []
    for key, tensor in tensors.items():
        part = next((part for part in PARTS if key.endswith(part)), None)
        if part is None:
            other_keys.append(key)
        else:
            groups.setdefault(key.removesuffix(part).removeprefix(PREFIX), {})[part] = tensor
    problems = _problems(groups, other_keys, layout)
    if problems:
        raise CheckpointError(
            f"{file} does not fit this model\n" + "\n".join(problems),
            "use a LoRA that was made for this model, in the layout of the official ones (docs/checkpoints.md)",
        )
    updates = {}
    for layer, parts in groups.items():
        down, up = (parts[part].flatten(1) for part in PARTS[:2])
        rank = down.shape[0]
        alpha = float(parts[PARTS[2]]) if PARTS[2] in parts else float(rank)
        updates[f"{layer}.weight"] = LowRankUpdate(down, up, lora.strength * alpha / rank)
    return Adapter(lora, updates, settings)


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


def _problems(
    groups: Mapping[str, Mapping[str, Tensor]], other_keys: Sequence[str], layout: Mapping[str, ParameterSlice]
) -> list[str]:
    """Return all reasons why a LoRA does not fit a checkpoint, as lines of text."""
    if not groups:
        ends = ", ".join(PARTS)
        return [f"it has no LoRA tensors (names that end in {ends}); it has:", format_names(other_keys) or "  nothing"]
    unknown = [layer for layer in groups if f"{layer}.weight" not in layout]
    incomplete = [layer for layer, parts in groups.items() if not {*PARTS[:2]} <= set(parts)]
    misshapen = []
    empty = [layer for layer, parts in groups.items() if any(tensor.numel() == 0 for tensor in parts.values())]
    not_floats = [
        f"{layer}{part}: {str(tensor.dtype).removeprefix('torch.')}"
        for layer, parts in groups.items()
        for part, tensor in parts.items()
        if not tensor.is_floating_point() and part != PARTS[2]
    ]
    for layer, parts in groups.items():
        target = layout.get(f"{layer}.weight")
        if target is None or layer in incomplete:
            continue
        down, up = (parts[part] for part in PARTS[:2])
        wanted = target.shape[0], math.prod(target.shape[1:])
        given = up.shape[0], math.prod(down.shape[1:])
        if up.dim() < 2 or down.dim() < 2 or math.prod(up.shape[1:]) != down.shape[0] or given != wanted:
            misshapen.append(f"{layer}: up {list(up.shape)}, down {list(down.shape)}, matrix {list(wanted)}")
    lines = []
    for title, names in (
        ("of layers that the model does not have", unknown),
        ("without lora_down or lora_up", incomplete),
        ("of rank 0", empty),
        ("of whole numbers, which cannot be merged without their scale", not_floats),
        ("of another shape", misshapen),
        ("that do not belong to a LoRA", other_keys),
    ):
        if names:
            lines += [f"{len(names)} {title}:", format_names(names)]
    return lines
