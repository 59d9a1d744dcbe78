"""LoRA files: small changes to a checkpoint's matrices, merged into them in float32 while they are read from its files.

W + strength · alpha/rank · up · down (Hu et al. 2021, arXiv:2106.09685). A resident model gets and loses LoRAs in the
same way: the matrices that one touches are read anew, so that what is left is exactly what the files hold.
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
from model.checkpoint.tensor_names import listed
from model.errors import CheckpointError
from model.network.configuration import ModelConfig

PREFIX = "diffusion_model."
"""Some files put it before every name."""
PARTS = (".lora_down.weight", ".lora_up.weight", ".alpha")


@dataclass(frozen=True)
class Change:
    """Of one matrix: down (rank, in), up (out, rank), and what their product is multiplied by."""

    down: Tensor
    up: Tensor
    scale: float

    def of(self, piece: TensorPart) -> "Change":
        """The change of a part of the matrix."""
        kept = slice(piece.start, piece.start + piece.count)
        if piece.axis == 1:
            each = math.prod(piece.tensor.shape[2:])  # of a convolution, numbers of one input channel
            return Change(self.down[:, kept.start * each : kept.stop * each], self.up, self.scale)
        return Change(self.down, self.up[kept], self.scale)


@dataclass(frozen=True)
class Adapter:
    """One LoRA that has been read.

    Attributes:
        changes: by the official name of the tensor that is changed.
        settings: that it is made for, as its metadata say; empty where they say nothing.
    """

    lora: NamedLora
    changes: Mapping[str, Change] = field(repr=False)
    settings: Mapping[str, Any]


def read_adapter(lora: NamedLora, layout: Mapping[str, ParameterSlice]) -> Adapter:
    """Read a LoRA and compare it with the tensors of a checkpoint.

    Args:
        slots: `checkpoint_layout` of the checkpoint's configuration.

    Raises:
        CheckpointError: the file cannot be read, is no LoRA, or does not belong to the checkpoint in every part.
    """
    file = find_lora(lora.name)
    with opened_lora(file, "pt") as stored:
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        settings = recommended_settings(stored.metadata() or {}, file)
    groups: dict[str, dict[str, Tensor]] = {}
    others = []
    for key, tensor in tensors.items():
        part = next((part for part in PARTS if key.endswith(part)), None)
        if part is None:
            others.append(key)
        else:
            groups.setdefault(key.removesuffix(part).removeprefix(PREFIX), {})[part] = tensor
    problems = _problems(groups, others, layout)
    if problems:
        raise CheckpointError(
            f"{file} does not fit this model\n" + "\n".join(problems),
            "use a LoRA that was made for this model, in the layout of the official ones (docs/checkpoints.md)",
        )
    changes = {}
    for layer, parts in groups.items():
        down, up = (parts[part].flatten(1) for part in PARTS[:2])
        rank = down.shape[0]
        alpha = float(parts[PARTS[2]]) if PARTS[2] in parts else float(rank)
        changes[f"{layer}.weight"] = Change(down, up, lora.strength * alpha / rank)
    return Adapter(lora, changes, settings)


def read_adapters(loras: Sequence[NamedLora], config: ModelConfig) -> tuple[Adapter, ...]:
    """Read LoRAs for a checkpoint of this configuration; errors as for `read_adapter`."""
    layout = checkpoint_layout(config)
    return tuple(read_adapter(lora, layout) for lora in loras)


def changed_by(adapters: Sequence[Adapter]) -> set[str]:
    """The official names of the tensors that some of these change."""
    return {name for adapter in adapters for name in adapter.changes}


class Merging:
    """Adds what adapters change to numbers on their way from the files. Made for several threads."""

    def __init__(self, adapters: Sequence[Adapter], device: torch.device, pieces: Mapping[str, TensorPart]) -> None:
        """pieces: what is read of each tensor that is changed, where it is not all of it."""
        self._changes: dict[str, list[Change]] = {}
        for adapter in adapters:
            for name, whole in adapter.changes.items():
                change = whole.of(pieces[name]) if name in pieces else whole
                on_device = Change(change.down.to(device).float(), change.up.to(device).float(), change.scale)
                self._changes.setdefault(name, []).append(on_device)

    def merged(self, name: str, first: int, numbers: Tensor) -> Tensor:
        """A run of a piece's elements that begins at `first`, on any device → float32 with the changes; the same
        tensor where there are none."""
        changes = self._changes.get(name)
        if not changes:
            return numbers
        columns = changes[0].down.shape[1]
        last = first + numbers.numel()
        rows = slice(first // columns, math.ceil(last / columns))
        skipped = first - rows.start * columns
        result = numbers.to(changes[0].up.device).float()
        for change in changes:
            product = (change.up[rows] @ change.down).flatten()[skipped : skipped + numbers.numel()]
            result = result + change.scale * product
        return result


def _problems(
    groups: Mapping[str, Mapping[str, Tensor]], others: Sequence[str], layout: Mapping[str, ParameterSlice]
) -> list[str]:
    """Everything that keeps a file from fitting, as lines of text."""
    if not groups:
        return [f"no part of a LoRA in it ({', '.join(part for part in PARTS)}), but:", listed(others) or "  nothing"]
    unknown = [layer for layer in groups if f"{layer}.weight" not in layout]
    halves = [layer for layer, parts in groups.items() if not {*PARTS[:2]} <= set(parts)]
    misshapen = []
    for layer, parts in groups.items():
        target = layout.get(f"{layer}.weight")
        if target is None or layer in halves:
            continue
        down, up = (parts[part] for part in PARTS[:2])
        wanted = target.shape[0], math.prod(target.shape[1:])
        given = up.shape[0], math.prod(down.shape[1:])
        if up.dim() < 2 or down.dim() < 2 or math.prod(up.shape[1:]) != down.shape[0] or given != wanted:
            misshapen.append(f"{layer}: up {list(up.shape)}, down {list(down.shape)}, matrix {list(wanted)}")
    lines = []
    for title, names in (
        ("of layers that the model has not", unknown),
        ("without lora_down or lora_up", halves),
        ("of another shape", misshapen),
        ("that are no part of a LoRA", others),
    ):
        if names:
            lines += [f"{len(names)} {title}:", listed(names)]
    return lines
