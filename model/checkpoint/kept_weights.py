"""Eight-bit weights that a file and the network store in the same format, so that their numbers are kept."""

from collections.abc import Mapping, Set

import torch
from torch import Tensor

from model.checkpoint.int8 import INT8
from model.checkpoint.layout import ParameterSlice
from model.checkpoint.quantization import Quantization, QuantizedLayer
from model.checkpoint.stored_tensor import ScaledRows, StoredTensor, TensorPart
from model.errors import CheckpointError


def kept_scales(
    layers: Mapping[str, QuantizedLayer],
    layout: Mapping[str, ParameterSlice],
    parts: Mapping[str, TensorPart],
    updated: Set[str],
) -> dict[str, Tensor]:
    """Return the scales of the weights whose stored numbers are kept, by parameter: (rows,), float32 on the host.

    A weight is dequantized and quantized again if one of its tensors is stored in another format or in other groups of
    the rotation, or if a LoRA updates it.

    Args:
        layers: quantized layers by the name of the parameter that fills them.
        parts: the part of each tensor that is read.
        updated: official names of the tensors that LoRAs update.
    """
    sources: dict[str, list[str]] = {}
    for name in parts:
        if layout[name].parameter in layers:
            sources.setdefault(layout[name].parameter, []).append(name)
    kept = {}
    for parameter, names in sources.items():
        layer = layers[parameter]
        names.sort(key=lambda name: layout[name].offset)
        found = [scales for name in names if (scales := _scales(parts[name], layer)) is not None]
        is_whole = len(found) == len(names) and sum(map(len, found)) == layer.scale.numel()
        if is_whole and not updated & set(names):
            kept[parameter] = torch.cat(found)
    return kept


def _scales(part: TensorPart, layer: QuantizedLayer) -> Tensor | None:
    """Return the scales of a part's rows; None if the layer does not store such numbers."""
    encoding = part.tensor.encoding
    name, group = "int8" if layer.weight.dtype == INT8 else "fp8", layer.input_format.group
    if not isinstance(encoding, ScaledRows) or (encoding.name, encoding.group) != (name, group):
        return None
    if part.axis == 1:
        return encoding.scales if part.start % group == 0 else None
    return encoding.scales[part.start : part.start + part.count]


def require_format(tensors: Mapping[str, StoredTensor], quantization: Quantization) -> None:
    """Raise CheckpointError if int8 weights would be rounded a second time, to float8."""
    if quantization.format != "fp8":
        return
    encodings = ((each, each.encoding) for each in tensors.values())
    stored = [each for each, encoding in encodings if isinstance(encoding, ScaledRows) and encoding.name == "int8"]
    if stored:
        raise CheckpointError(
            f"{stored[0].file}: {len(stored)} tensors are int8 already, and float8 would round them a second time",
            "use `quantization=int8`, which keeps them as they are, or `quantization=off`",
        )
