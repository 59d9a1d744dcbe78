"""Eight-bit weights of safetensors files: each weight is combined with the tensors of its scales.

Three layouts are read. Scaled float8: `NAME.weight` with `NAME.scale_weight` or `NAME.weight_scale`, one for the tensor
or one a row. Rotated int8: `NAME.weight`, `NAME.weight_scale` with one scale a row, and `NAME.comfy_quant`, JSON that
names the format and the rotation. Newer float8 files have `comfy_quant`, too.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from config.json_files import parse_json
from model.checkpoint.gguf_header import official_name
from model.checkpoint.stored_tensor import ScaledRows, StoredTensor
from model.checkpoint.tensor_names import format_names
from model.errors import CheckpointError

WEIGHT, DESCRIPTION = ".weight", ".comfy_quant"
SCALES = (".weight_scale", ".scale_weight")
IGNORED = (".scale_input", ".input_scale")
"""Scales of inputs, which are computed from the inputs here."""
MARKER = "scaled_fp8"
"""A tensor that says that a file is scaled float8."""
FORMATS: Mapping[str, Literal["int8", "fp8"]] = {"int8_tensorwise": "int8", "float8_e4m3fn": "fp8"}
"""Value of `format` in a description → our name."""
FOUR_BITS = ("w4", "fp4", "int4", "nf4", "uint4")
"""Parts of the names of formats with four bits."""
LONGEST_DESCRIPTION = 4096
ORIGINAL = "fetch the file again, or take the original checkpoint"


def combine_scales(stored: Iterable[StoredTensor]) -> dict[str, StoredTensor]:
    """Return the tensors of safetensors files by their official names, with scales and descriptions made encodings.

    Raises:
        CheckpointError: two tensors have the same name; scales are missing, of the wrong shape, or not positive
            numbers; a format or a rotation is not known; or weights have four bits.
    """
    tensors: dict[str, StoredTensor] = {}
    for tensor in stored:
        name = official_name(tensor.name)
        if name in tensors:
            raise CheckpointError(
                f"{name} is stored in two files: {tensors[name].file} and {tensor.file}"
                if tensors[name].file != tensor.file
                else f"{tensor.file} has two tensors {name}",
                "fetch the checkpoint again",
            )
        tensors[name] = replace(tensor, name=name)
    tensors.pop(MARKER, None)
    if not any(tensor.dtype.itemsize == 1 for tensor in tensors.values()):
        return tensors
    return _Combiner(tensors).combined()


class _Combiner:
    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self._tensors = tensors

    def combined(self) -> dict[str, StoredTensor]:
        """Return the weights, and the tensors that are stored as they are."""
        self._require_eight_bits()
        result: dict[str, StoredTensor] = {}
        for name, tensor in self._tensors.items():
            if not name.endswith((*SCALES, *IGNORED, DESCRIPTION)):
                result[name] = tensor if tensor.dtype.itemsize > 1 else self._weight(name, tensor)
        return result

    def _require_eight_bits(self) -> None:
        """Raise CheckpointError if descriptions name four-bit formats; the message lists their weights."""
        four_bits: dict[str, str] = {}
        for name, tensor in self._tensors.items():
            if name.endswith(DESCRIPTION):
                stored = str(self._description(tensor).get("format"))
                if any(part in stored.lower() for part in FOUR_BITS):
                    four_bits[name.removesuffix(DESCRIPTION)] = stored
        if four_bits:
            file = self._tensors[f"{next(iter(four_bits))}{DESCRIPTION}"].file
            raise CheckpointError(
                f"{file}: {len(four_bits)} tensors are stored in 4 bits, which are not read "
                f"({', '.join(sorted(set(four_bits.values())))[:100]}):\n{format_names(four_bits)}",
                "take the int8 file, or the original with `quantization=int8`",
            )

    def _weight(self, name: str, tensor: StoredTensor) -> StoredTensor:
        base = name.removesuffix(WEIGHT)
        described = self._tensors.get(base + DESCRIPTION) if name.endswith(WEIGHT) else None
        scales = next((self._tensors[base + each] for each in SCALES if base + each in self._tensors), None)
        kind: Literal["int8", "fp8"] = "fp8" if tensor.dtype == torch.float8_e4m3fn else "int8"
        if tensor.dtype == torch.uint8 or len(tensor.shape) != 2 or scales is None or not name.endswith(WEIGHT):
            shown = {torch.uint8: "U8", torch.int8: "I8"}.get(tensor.dtype, "F8_E4M3")
            missing = "without a scale" if scales is None else f"with the shape {list(tensor.shape)}"
            raise CheckpointError(f"{tensor.file}: {name} is stored as {shown} {missing}, which is not read", ORIGINAL)
        group = 1
        if described is not None:
            group = self._group(self._description(described), described, tensor, kind)
        elif kind == "int8":
            raise CheckpointError(
                f"{tensor.file}: {name} is int8, and {base}{DESCRIPTION} is missing, which says whether it is rotated",
                ORIGINAL,
            )
        encoding = ScaledRows(kind, _row_scales(scales, tensor.shape[0]), tensor.shape[1], group)
        return StoredTensor(tensor.file, name, torch.float32, tensor.shape, tensor.start, tensor.stop, encoding)

    def _group(self, fields: Mapping[str, Any], described: StoredTensor, tensor: StoredTensor, kind: str) -> int:
        """Return the size of the groups that a weight is rotated in; 1 if it is not."""
        where = f"{described.file}: {described.name}"
        if FORMATS.get(str(fields.get("format"))) != kind:
            raise CheckpointError(
                f"{where} names the format {str(fields.get('format'))[:60]!r}, which is not read for {tensor.dtype}",
                "take a file of int8_tensorwise or float8_e4m3fn, or the original with `quantization=int8`",
            )
        rotated = fields.get("convrot", False)
        group = fields.get("convrot_groupsize", 256) if rotated is not False else 1
        is_power = type(group) is int and 0 < group <= 2**20 and group.bit_count() == 1 and group.bit_length() % 2 == 1
        if type(rotated) is not bool or not is_power or (rotated and kind == "fp8"):
            raise CheckpointError(
                f"{where}: the rotation convrot {str(rotated)[:20]}, convrot_groupsize {str(group)[:20]} is not known; "
                "without it the weight would be wrong",
                "take the original checkpoint with `quantization=int8`",
            )
        if tensor.shape[1] % group:
            raise CheckpointError(
                f"{where}: rows of {tensor.shape[1]} numbers cannot be rotated in groups of {group}", ORIGINAL
            )
        return int(group)

    def _description(self, tensor: StoredTensor) -> Mapping[str, Any]:
        size = tensor.stop - tensor.start
        try:
            if tensor.dtype != torch.uint8 or size > LONGEST_DESCRIPTION:
                raise ValueError(f"it has {size:,} bytes of {tensor.dtype}")
            fields = parse_json(_read(tensor))
            if not isinstance(fields, dict):
                raise ValueError("it is not a JSON object")
        except ValueError as error:
            raise CheckpointError(f"{tensor.file}: {tensor.name} cannot be understood: {error}", ORIGINAL) from error
        return fields


def _row_scales(tensor: StoredTensor, rows: int) -> Tensor:
    """Read a weight's scales: one for each of its rows, (rows,) in float32."""
    if tensor.shape not in ((), (1,), (1, 1), (rows,), (rows, 1)) or tensor.dtype.itemsize == 1:
        raise CheckpointError(
            f"{tensor.file}: {tensor.name} has the shape {list(tensor.shape)}, and should have [{rows}, 1]",
            ORIGINAL,
        )
    scales = torch.frombuffer(bytearray(_read(tensor)), dtype=tensor.dtype).float()
    if not (torch.isfinite(scales) & (scales > 0)).all():
        raise CheckpointError(f"{tensor.file}: {tensor.name} has scales that are not positive numbers", ORIGINAL)
    return scales.expand(rows).contiguous()


def _read(tensor: StoredTensor) -> bytes:
    count = tensor.stop - tensor.start
    try:
        with tensor.file.open("rb") as stream:
            stream.seek(tensor.start)
            data = stream.read(count)
    except OSError as error:
        raise CheckpointError(f"{tensor.file} cannot be read: {error.strerror}", "check the disk") from error
    if len(data) != count:
        raise CheckpointError(f"{tensor.file} ends in the middle of {tensor.name}", "fetch the file again")
    return data
