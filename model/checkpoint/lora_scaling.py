"""The factor of a LoRA's update, as PEFT describes it beside the weights.

PEFT multiplies up · down by alpha / rank, or by alpha / √rank with `use_rslora` (Kalajdzievski 2023, arXiv:2312.03732).
It stores alpha in `adapter_config.json`; diffusers stores the same fields in the file's metadata. kohya stores an alpha
for each layer as a tensor. Without any of them alpha is the rank.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.json_files import parse_json, read_json
from model.errors import CheckpointError

ADAPTER_CONFIG = "adapter_config.json"
METADATA_KEY = "lora_adapter_metadata"
"""The key of diffusers' metadata with these fields. Each field has the prefix `transformer.`."""


@dataclass(frozen=True)
class Scaling:
    """Alpha of every layer without a tensor of its own.

    Attributes:
        alpha: None for the rank.
        patterns: end of a layer's name → alpha of this layer.
        by_square_root: divide by √rank.
    """

    alpha: float | None = None
    patterns: Mapping[str, float] = field(default_factory=dict)
    by_square_root: bool = False

    def factor(self, layer: str, rank: int, stored_alpha: float | None = None) -> float:
        """Return the factor of a layer's update.

        Args:
            layer: the layer's name in the file.
            stored_alpha: alpha of this layer, if the file has it as a tensor.
        """
        if stored_alpha is not None:
            return stored_alpha / rank
        special = (alpha for end, alpha in self.patterns.items() if f".{layer}".endswith(f".{end}"))
        alpha = next(special, self.alpha)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.by_square_root else rank)


def read_scaling(file: Path, metadata: Mapping[str, str]) -> Scaling:
    """Read the scaling of a LoRA file from its metadata or from `adapter_config.json` in its folder.

    Raises:
        CheckpointError: the description is damaged, or describes an update that is not a plain LoRA.
    """
    beside = file.parent / ADAPTER_CONFIG
    where = f"the metadata of {file}" if METADATA_KEY in metadata else str(beside)
    try:
        if METADATA_KEY in metadata:
            stored = parse_json(metadata[METADATA_KEY])
            fields = {name.removeprefix("transformer."): value for name, value in stored.items()}
        elif beside.exists():
            fields = read_json(beside)
        else:
            return Scaling()
        unsupported = [name for name in ("use_dora", "fan_in_fan_out") if fields.get(name)]
        if not unsupported:
            patterns = {_layer(end): _number(alpha) for end, alpha in (fields.get("alpha_pattern") or {}).items()}
            alpha = fields.get("lora_alpha")
            return Scaling(None if alpha is None else _number(alpha), patterns, bool(fields.get("use_rslora")))
    except OSError as error:
        raise CheckpointError(f"{beside} cannot be read: {error.strerror}", "check its permissions") from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise CheckpointError(
            f"{where} is damaged: it is not JSON with fields of a LoRA of PEFT", "fetch the file again"
        ) from error
    raise CheckpointError(
        f"{where} has {unsupported[0]}: only plain LoRAs are read", "merge it with PEFT, or use another LoRA"
    )


def _layer(pattern: str) -> str:
    """Return the end of a layer's name. PEFT also takes regular expressions, but a stranger's could run for hours."""
    name = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if not re.fullmatch(r"[\w.]+", name):
        raise ValueError(f"{pattern} is not the name of a layer")
    return name


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)
