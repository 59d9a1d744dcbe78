"""What happens to tokens, one row each, between two matrix products: in one kernel, read once and written once.

Numbers are rounded where `model.network` rounds them. Each kernel can also write its result as float8, for a product
that takes it so: see `model.checkpoint.quantization`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.checkpoint.quantization import FP8, GREATEST, LEAST_SCALE

ELEMENTS_PER_WARP = 1024
"""Of a row; a row is held in registers by all warps of its program."""


@triton.jit
def _store_row(out, scales, row, column, inside, result, WIDTH: tl.constexpr, GREATEST, LEAST, QUANTIZED: tl.constexpr):
    if QUANTIZED:
        scale = tl.maximum(tl.max(tl.where(inside, tl.abs(result), 0.0), axis=0) / GREATEST, LEAST)
        result = tl.minimum(tl.maximum(result / scale, -GREATEST), GREATEST)
        tl.store(scales + row, scale)
    tl.store(out + row * WIDTH + column, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _norm_kernel(
    rows,
    addend,
    weight,
    out,
    scales,
    eps,
    greatest,
    least,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ADDED: tl.constexpr,
    QUANTIZED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    element = rows.dtype.element_ty
    x = tl.load(rows + row * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    if ADDED:
        x += tl.load(addend + row * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(rows + row * WIDTH + column, x.to(element), mask=inside)
        x = x.to(element).to(tl.float32)
    rstd = tl.rsqrt(tl.sum(x * x, axis=0) / WIDTH + eps)
    result = (x * rstd).to(element).to(tl.float32)
    result *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    result = result.to(element).to(tl.float32)
    _store_row(out, scales, row, column, inside, result, WIDTH, greatest, least, QUANTIZED)


@triton.jit
def _gate_kernel(
    gate_up,
    out,
    scales,
    greatest,
    least,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    QUANTIZED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    element = gate_up.dtype.element_ty
    gate = tl.load(gate_up + row * 2 * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * WIDTH + WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    result = (gate / (1 + tl.exp(-gate))).to(element).to(tl.float32) * up
    result = result.to(element).to(tl.float32)
    _store_row(out, scales, row, column, inside, result, WIDTH, greatest, least, QUANTIZED)


@triton.jit
def _quantize_kernel(rows, out, scales, greatest, least, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    x = tl.load(rows + row * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    _store_row(out, scales, row, column, inside, x, WIDTH, greatest, least, True)


Rows = Tensor | tuple[Tensor, Tensor]
"""Input of a matrix product, (N, width): as it is, or as float8 with the rows' scales (N, 1), float32."""


def normed(rows: Tensor, addend: Tensor | None, weight: Tensor, eps: float, *, quantized: bool) -> Rows:
    """Add the addend, if there is one, to the rows (N, width), contiguous, in place, and return their RMS norm."""
    out, scales = _result(rows.shape, rows, quantized)
    block, warps = _whole_row(rows.shape[1])
    _norm_kernel[(rows.shape[0],)](
        rows,
        rows if addend is None else addend,
        weight,
        out,
        scales,
        eps,
        GREATEST,
        LEAST_SCALE,
        WIDTH=rows.shape[1],
        BLOCK=block,
        ADDED=addend is not None,
        QUANTIZED=quantized,
        num_warps=warps,
    )
    return (out, scales) if quantized else out


def gated(gate_up: Tensor, *, quantized: bool) -> Rows:
    """(N, 2·width), gate before up → silu(gate) · up, (N, width)."""
    count, width = gate_up.shape[0], gate_up.shape[1] // 2
    out, scales = _result((count, width), gate_up, quantized)
    block, warps = _whole_row(width) if quantized else (ELEMENTS_PER_WARP, 4)
    _gate_kernel[(count, triton.cdiv(width, block))](
        gate_up,
        out,
        scales,
        GREATEST,
        LEAST_SCALE,
        WIDTH=width,
        BLOCK=block,
        QUANTIZED=quantized,
        num_warps=warps,
    )
    return (out, scales) if quantized else out


def quantized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(N, width) → the same numbers as float8, and each row's scale."""
    out, scales = _result(rows.shape, rows, True)
    block, warps = _whole_row(rows.shape[1])
    _quantize_kernel[(rows.shape[0],)](
        rows, out, scales, GREATEST, LEAST_SCALE, WIDTH=rows.shape[1], BLOCK=block, num_warps=warps
    )
    return out, scales


def _result(shape: tuple[int, ...], like: Tensor, quantized: bool) -> tuple[Tensor, Tensor]:
    """Memory for a result and, where it has them, its scales."""
    out = like.new_empty(shape, dtype=FP8 if quantized else like.dtype)
    return out, like.new_empty((shape[0], 1), dtype=torch.float32) if quantized else out


def _whole_row(width: int) -> tuple[int, int]:
    """Elements and warps of a program that holds a row."""
    block = triton.next_power_of_2(width)
    return block, min(16, max(1, block // ELEMENTS_PER_WARP))
