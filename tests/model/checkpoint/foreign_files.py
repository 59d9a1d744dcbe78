"""Weights of a checkpoint in the layouts of other programs, written for tests."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from model.checkpoint.gguf_blocks import FORMATS, dequantize
from model.checkpoint.int8 import quantize_weight
from model.checkpoint.scaled_tensors import DESCRIPTION

Tensors = dict[str, torch.Tensor]
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NUMBERS = {block_format.size.name: number for number, block_format in FORMATS.items()}
SCALE_BYTES = {"Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
"""First bytes of the float16 numbers in a block."""


def official_tensors(folder: Path) -> Tensors:
    """The tensors of a checkpoint folder in float32."""
    return {
        name: tensor.float()
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def is_linear(name: str) -> bool:
    """Whether files of others quantize this tensor: projections, and the linear layers of the embedders."""
    return name.endswith(".weight") and any(
        part in name for part in (*PROJECTIONS, "timestep_embedder", "noise_scale_embedder")
    )


def write_safetensors(folder: Path, tensors: Tensors) -> None:
    """Replace the weights of a checkpoint folder."""
    for file in folder.glob("model*"):
        file.unlink()
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors")


def scaled_fp8(tensors: Tensors, key: str = ".scale_weight", rows: bool = False) -> tuple[Tensors, Tensors]:
    """A file of scaled float8, and the numbers that its weights have."""
    stored: Tensors = {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)} if key == ".scale_weight" else {}
    numbers: Tensors = {}
    for name, tensor in tensors.items():
        if not is_linear(name):
            stored[name] = numbers[name] = tensor
            continue
        scale = (tensor.abs().amax(1, keepdim=True) if rows else tensor.abs().max()) / 448
        values = (tensor / scale).to(torch.float8_e4m3fn)
        stored[name], stored[name.removesuffix(".weight") + key] = values, scale
        numbers[name] = values.float() * scale
    return stored, numbers


def description(group: int, **changes: Any) -> torch.Tensor:
    """The tensor `comfy_quant` of a weight that is rotated in groups; 1 for none."""
    fields = {"format": "int8_tensorwise", "convrot": group > 1, "convrot_groupsize": group}
    if group == 1:
        del fields["convrot_groupsize"]
    return torch.tensor(list(json.dumps(fields | changes).encode()), dtype=torch.uint8)


def rotated_int8(tensors: Tensors, group: Callable[[int], int]) -> Tensors:
    """A file of rotated int8. `group` is called with the columns of each weight."""
    stored: Tensors = {}
    for name, tensor in tensors.items():
        if not is_linear(name):
            stored[name] = tensor
            continue
        size, base = group(tensor.shape[1]), name.removesuffix(".weight")
        quantized = quantize_weight(tensor, size)
        stored |= {
            name: quantized.values,
            f"{base}.weight_scale": quantized.scales,
            base + DESCRIPTION: description(size),
        }
    return stored


def random_blocks(count: int, kind: str, seed: int) -> torch.Tensor:
    """Blocks whose numbers are of the size of weights."""
    generator = torch.Generator().manual_seed(seed)
    block_format = FORMATS[NUMBERS[kind]]
    blocks = torch.randint(0, 256, (count, block_format.size.nbytes), dtype=torch.uint8, generator=generator)
    for first in SCALE_BYTES[kind]:
        scales = torch.rand(count, 1, generator=generator) * {"Q6_K": 1e-5, "Q3_K": 1e-4}.get(kind, 2e-4)
        blocks[:, first : first + 2] = scales.half().view(torch.uint8)
    return blocks.flatten()


def write_gguf(
    file: Path,
    tensors: Tensors,
    kind: Callable[[str], str],
    prefix: str = "",
    architecture: str = "wan",
    properties: Mapping[str, str] | None = None,
) -> Tensors:
    """Write a GGUF file as ComfyUI's converter does, and return the numbers of its tensors.

    Args:
        kind: a tensor's name → the name of its format. Quantized tensors get random blocks.
    """
    writer = gguf.GGUFWriter(file, architecture)
    for key, text in (properties or {}).items():
        writer.add_string(key, text)
    numbers: Tensors = {}
    for seed, (name, tensor) in enumerate(tensors.items()):
        number = NUMBERS[kind(name)]
        block_format = FORMATS[number]
        if block_format.dtype is not None:
            stored = tensor.to(block_format.dtype)
            numbers[name] = stored.float()
            data = stored.view(torch.uint8) if block_format.dtype == torch.bfloat16 else stored
            raw = gguf.GGMLQuantizationType(number) if block_format.dtype == torch.bfloat16 else None
            writer.add_tensor(prefix + name, data.numpy(), raw_dtype=raw)
            continue
        shape = list(tensor.shape)
        if shape[-1] % block_format.size.numbers:
            writer.add_array(f"comfy.gguf.orig_shape.{prefix}{name}", shape)
            shape = [tensor.numel() // block_format.size.numbers, block_format.size.numbers]
        blocks = random_blocks(math.prod(shape) // block_format.size.numbers, kind(name), seed)
        numbers[name] = dequantize(blocks, block_format).view(tensor.shape)
        row = shape[-1] // block_format.size.numbers * block_format.size.nbytes
        data = np.ascontiguousarray(blocks.view(*shape[:-1], row).numpy())
        writer.add_tensor(prefix + name, data, raw_dtype=gguf.GGMLQuantizationType(number))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return numbers
