"""Number formats of GGUF files: blocks of packed integers with their scales → float32, in PyTorch on any device.

The formats are those of ggml (ggml-common.h and ggml-quants.c in ggml-org/llama.cpp). A block of the legacy format Q8_0
holds 32 numbers, a "K" block holds 256, with 16 or 8 scales that are integers themselves. The results are bit for bit
those of the package `gguf`: the same products and differences in float32, in the same order.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.checkpoint.gguf_header import SIZES, BlockSize


@dataclass(frozen=True)
class BlockFormat:
    """A number format of GGUF files.

    Attributes:
        size: of a block.
        dtype: for a plain format, the PyTorch dtype of the same bytes; None for a quantized one.
        decode: blocks (N, nbytes) of uint8 → numbers (N, numbers) in float32.
    """

    size: BlockSize
    dtype: torch.dtype | None
    decode: Callable[[Tensor], Tensor]


def dequantize(blocks: Tensor, block_format: BlockFormat) -> Tensor:
    """Return the numbers of consecutive blocks, 1-D in float32 on the same device.

    Args:
        blocks: bytes of whole blocks, 1-D uint8.
    """
    return block_format.decode(blocks.view(-1, block_format.size.nbytes)).flatten()


def _halves(part: Tensor) -> Tensor:
    """Bytes (N, 2) → float16 numbers as float32, (N, 1)."""
    return part.clone(memory_format=torch.contiguous_format).view(torch.float16).float()


def _bits(part: Tensor, width: int) -> Tensor:
    """Split each byte into fields of `width` bits, the lowest first: (N, …, K) → (N, …, 8 / width, K)."""
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=part.device)
    return (part.unsqueeze(-2) >> shifts[:, None]) & (2**width - 1)


def _scaled(scales: Tensor, values: Tensor) -> Tensor:
    """Multiply groups of numbers by their scales: (N, groups) and (N, …) → (N, groups, numbers of a group)."""
    return scales.unsqueeze(-1) * values.reshape(*scales.shape, -1).float()


def _plain(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda blocks: blocks.clone(memory_format=torch.contiguous_format).view(dtype).float()


def _q8_0(blocks: Tensor) -> Tensor:
    """float16 scale · int8."""
    return blocks[:, 2:].view(torch.int8).float() * _halves(blocks[:, :2])


def _q2_k(blocks: Tensor) -> Tensor:
    """16 groups with a 4-bit scale and a 4-bit minimum each; two bits a number."""
    scales, quants, factors = blocks.split([16, 64, 4], dim=1)
    scale = _halves(factors[:, :2]) * (scales & 15).float()
    minimum = _halves(factors[:, 2:]) * (scales >> 4).float()
    values = _bits(quants.reshape(-1, 2, 32), 2)
    return (_scaled(scale, values) - minimum.unsqueeze(-1)).flatten(1)


def _q3_k(blocks: Tensor) -> Tensor:
    """16 groups with a signed 6-bit scale each; two low bits and a third bit in a mask."""
    mask, quants, packed, factor = blocks.split([32, 64, 12, 2], dim=1)
    low, high = _bits(packed[:, :8], 4).flatten(1), _bits(packed[:, 8:], 2).flatten(1)
    scales = (low | (high << 4)).to(torch.int8) - 32
    third = _bits(mask, 1).flatten(1)
    # Numbers whose third bit is missing are negative: 0…3 become -4…-1.
    values = (_bits(quants.reshape(-1, 2, 32), 2).flatten(1) | (third << 2)).to(torch.int8) - 4
    return _scaled(_halves(factor) * scales.float(), values).flatten(1)


def _six_bit_scales(packed: Tensor) -> tuple[Tensor, Tensor]:
    """12 bytes → the scales and the minima of 8 groups, six bits each, as float32 (N, 8)."""
    first, second, rest = packed.split(4, dim=1)
    scales = torch.cat([first & 63, (rest & 15) | ((first >> 2) & 48)], dim=1)
    minima = torch.cat([second & 63, (rest >> 4) | ((second >> 2) & 48)], dim=1)
    return scales.float(), minima.float()


def _q4_k(blocks: Tensor) -> Tensor:
    """8 groups with a 6-bit scale and a 6-bit minimum each; four bits a number."""
    factors, packed, quants = blocks.split([4, 12, 128], dim=1)
    return _with_minima(factors, packed, _bits(quants.reshape(-1, 4, 32), 4))


def _q5_k(blocks: Tensor) -> Tensor:
    """As Q4_K, with a fifth bit of each number in a mask."""
    factors, packed, mask, quants = blocks.split([4, 12, 32, 128], dim=1)
    low = _bits(quants.reshape(-1, 4, 32), 4).flatten(1)
    return _with_minima(factors, packed, low | (_bits(mask, 1).flatten(1) << 4))


def _with_minima(factors: Tensor, packed: Tensor, values: Tensor) -> Tensor:
    scales, minima = _six_bit_scales(packed)
    scale, minimum = _halves(factors[:, :2]) * scales, _halves(factors[:, 2:]) * minima
    return (_scaled(scale, values) - minimum.unsqueeze(-1)).flatten(1)


def _q6_k(blocks: Tensor) -> Tensor:
    """16 groups with an int8 scale each; four low bits and two high bits a number."""
    low, high, scales, factor = blocks.split([128, 64, 16, 2], dim=1)
    fours = _bits(low.reshape(-1, 2, 64), 4).flatten(1)
    twos = _bits(high.reshape(-1, 2, 32), 2).flatten(1)
    values = (fours | (twos << 4)).to(torch.int8) - 32
    return _scaled(_halves(factor) * scales.view(torch.int8).float(), values).flatten(1)


FORMATS: dict[int, BlockFormat] = {
    0: BlockFormat(SIZES[0], torch.float32, _plain(torch.float32)),
    1: BlockFormat(SIZES[1], torch.float16, _plain(torch.float16)),
    8: BlockFormat(SIZES[8], None, _q8_0),
    10: BlockFormat(SIZES[10], None, _q2_k),
    11: BlockFormat(SIZES[11], None, _q3_k),
    12: BlockFormat(SIZES[12], None, _q4_k),
    13: BlockFormat(SIZES[13], None, _q5_k),
    14: BlockFormat(SIZES[14], None, _q6_k),
    30: BlockFormat(SIZES[30], torch.bfloat16, _plain(torch.bfloat16)),
}
"""The formats that are read, by their number in a file."""
