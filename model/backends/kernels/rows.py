"""Kernels between two matrix products. Each reads a token's row once and writes it once.

Numbers are rounded where `model.network` rounds them. Each kernel can also quantize its result for the next product:
see `model.network.projection`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.backends.kernels.rotation import rotated
from model.network.projection import LEAST_SCALE, QuantizedRows, RowFormat, Rows

ELEMENTS_PER_WARP = 1024
"""Elements of a row per warp. The warps of a program hold a whole row in registers."""
ROUNDING: tl.constexpr = tl.constexpr(1.5 * 2**23)
"""Adding this number to a float32 number below 2^22 and subtracting it again rounds to the nearest even integer."""


@triton.jit
def _store_row(
    out,
    scales,
    row,
    column,
    inside,
    result,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    GREATEST,
    LEAST,
    QUANTIZED: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Store a row whose numbers outside are zero. If QUANTIZED, rotate it in groups of GROUP, scale it and round it."""
    if QUANTIZED:
        result = rotated(result, BLOCK, GROUP)
        scale = tl.maximum(tl.max(tl.where(inside, tl.abs(result), 0.0), axis=0) / GREATEST, LEAST)
        result = tl.minimum(tl.maximum(result / scale, -GREATEST), GREATEST)
        if out.dtype.element_ty == tl.int8:
            result = (result + ROUNDING) - ROUNDING
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
    GROUP: tl.constexpr,
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
    _store_row(out, scales, row, column, inside, result, WIDTH, BLOCK, greatest, least, QUANTIZED, GROUP)


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
    GROUP: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    element = gate_up.dtype.element_ty
    gate = tl.load(gate_up + row * 2 * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * WIDTH + WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    result = (gate / (1 + tl.exp(-gate))).to(element).to(tl.float32) * up
    result = result.to(element).to(tl.float32)
    _store_row(out, scales, row, column, inside, result, WIDTH, BLOCK, greatest, least, QUANTIZED, GROUP)


@triton.jit
def _quantize_kernel(rows, out, scales, greatest, least, WIDTH: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    x = tl.load(rows + row * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    _store_row(out, scales, row, column, inside, x, WIDTH, BLOCK, greatest, least, True, GROUP)


def normed(rows: Tensor, addend: Tensor | None, weight: Tensor, eps: float, row_format: RowFormat | None) -> Rows:
    """Add the addend, if given, to the rows (N, width), contiguous, in place. Return the RMS norm of the sum.

    Args:
        row_format: the form to quantize the result to, or None.
    """
    out, scales = _result(rows.shape, rows, row_format)
    block, warps = _whole_row(rows.shape[1])
    _norm_kernel[(rows.shape[0],)](
        rows,
        rows if addend is None else addend,
        weight,
        out,
        scales,
        eps,
        _greatest(row_format),
        LEAST_SCALE,
        WIDTH=rows.shape[1],
        BLOCK=block,
        ADDED=addend is not None,
        QUANTIZED=row_format is not None,
        GROUP=_group(row_format),
        num_warps=warps,
    )
    return out if row_format is None else QuantizedRows(out, scales, rows.dtype)


def gated(gate_up: Tensor, row_format: RowFormat | None) -> Rows:
    """(N, 2·width), gate before up → silu(gate) · up, (N, width), quantized to `row_format` unless it is None."""
    count, width = gate_up.shape[0], gate_up.shape[1] // 2
    out, scales = _result((count, width), gate_up, row_format)
    block, warps = (ELEMENTS_PER_WARP, 4) if row_format is None else _whole_row(width)
    _gate_kernel[(count, triton.cdiv(width, block))](
        gate_up,
        out,
        scales,
        _greatest(row_format),
        LEAST_SCALE,
        WIDTH=width,
        BLOCK=block,
        QUANTIZED=row_format is not None,
        GROUP=_group(row_format),
        num_warps=warps,
    )
    return out if row_format is None else QuantizedRows(out, scales, gate_up.dtype)


def quantized(rows: Tensor, row_format: RowFormat) -> QuantizedRows:
    """(N, width), contiguous → the same numbers in `row_format`."""
    out, scales = _result(rows.shape, rows, row_format)
    block, warps = _whole_row(rows.shape[1])
    _quantize_kernel[(rows.shape[0],)](
        rows,
        out,
        scales,
        row_format.greatest,
        LEAST_SCALE,
        WIDTH=rows.shape[1],
        BLOCK=block,
        GROUP=row_format.group,
        num_warps=warps,
    )
    return QuantizedRows(out, scales, rows.dtype)


def _result(shape: tuple[int, ...], like: Tensor, row_format: RowFormat | None) -> tuple[Tensor, Tensor]:
    """Allocate a result and its scales. Without quantization the result stands for the scales, which are not used."""
    if row_format is None:
        out = like.new_empty(shape)
        return out, out
    return like.new_empty(shape, dtype=row_format.dtype), like.new_empty((shape[0], 1), dtype=torch.float32)


def _greatest(row_format: RowFormat | None) -> float:
    return 0.0 if row_format is None else row_format.greatest


def _group(row_format: RowFormat | None) -> int:
    return 1 if row_format is None else row_format.group


def _whole_row(width: int) -> tuple[int, int]:
    """Return elements and warps of a program that holds a row."""
    block = triton.next_power_of_2(width)
    return block, min(16, max(1, block // ELEMENTS_PER_WARP))
