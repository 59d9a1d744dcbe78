"""The product of rows that are sorted by expert with each expert's weight, and the weighted sum of each token's rows.

The numbers of rows of the experts stay on the device. So the grid has room for the most tiles that they can make, and
programs without a tile end at once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.network.projection import QuantizedRows, Rows

TILES = {1: (128, 128, 128, 3, 8), 2: (128, 128, 64, 3, 8), 4: (64, 64, 32, 3, 4)}
"""Rows, columns of the result, columns of the rows at once, stages and warps of a tile, by bytes of a number. They fit
into the 99 KiB of shared memory of GeForce cards."""
FEW_ROWS = 64
"""Rows of a tile if the experts have fewer rows than this on average."""
SUM_BLOCK = 1024
"""Columns that a program of the weighted sum adds."""


@triton.jit
def _grouped_kernel(
    rows,
    row_scales,
    weight,
    weight_scales,
    ends,
    out,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
    EXPERTS: tl.constexpr,
    EXPERT_BLOCK: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    FEATURE_BLOCK: tl.constexpr,
    WIDTH_BLOCK: tl.constexpr,
    SCALED: tl.constexpr,
    WHOLE_NUMBERS: tl.constexpr,
):
    feature_tiles: tl.constexpr = (FEATURES + FEATURE_BLOCK - 1) // FEATURE_BLOCK
    tile = tl.program_id(0) // feature_tiles
    number = tl.arange(0, EXPERT_BLOCK)
    stop = tl.load(ends + number, mask=number < EXPERTS, other=0)
    start = tl.load(ends + number - 1, mask=(number > 0) & (number < EXPERTS), other=0)
    tiles = tl.where(number < EXPERTS, (stop - start + ROW_BLOCK - 1) // ROW_BLOCK, 0)
    expert = tl.sum((tl.cumsum(tiles, axis=0) <= tile).to(tl.int32), axis=0)
    if expert >= EXPERTS:
        return
    tile -= tl.sum(tl.where(number < expert, tiles, 0), axis=0)
    first = tl.sum(tl.where(number == expert, start, 0), axis=0) + tile * ROW_BLOCK
    end = tl.sum(tl.where(number == expert, stop, 0), axis=0)

    row = first + tl.arange(0, ROW_BLOCK)
    feature = tl.program_id(0) % feature_tiles * FEATURE_BLOCK + tl.arange(0, FEATURE_BLOCK)
    column = tl.arange(0, WIDTH_BLOCK)
    # Rows beyond the end read a row that exists, and are not stored. That is cheaper than a mask in the loop.
    row_start = rows + tl.minimum(row, end - 1).to(tl.int64)[:, None] * WIDTH
    weight_row = expert.to(tl.int64) * FEATURES + feature % FEATURES
    weight_start = weight + weight_row[None, :] * WIDTH
    total = tl.zeros((ROW_BLOCK, FEATURE_BLOCK), dtype=tl.int32 if WHOLE_NUMBERS else tl.float32)
    for begin in range(0, WIDTH, WIDTH_BLOCK):
        if WIDTH % WIDTH_BLOCK == 0:
            left = tl.load(row_start + (begin + column)[None, :])
            right = tl.load(weight_start + (begin + column)[:, None])
        else:
            inside = begin + column < WIDTH
            left = tl.load(row_start + (begin + column)[None, :], mask=inside[None, :], other=0)
            right = tl.load(weight_start + (begin + column)[:, None], mask=inside[:, None], other=0)
        if WHOLE_NUMBERS:
            total = tl.dot(left, right, total, out_dtype=tl.int32)
        else:
            total = tl.dot(left, right, total, input_precision="ieee")
    result = total.to(tl.float32)
    if SCALED:
        left_scale = tl.load(row_scales + row, mask=row < end, other=0.0)
        right_scale = tl.load(weight_scales + weight_row)
        result = result * left_scale[:, None] * right_scale[None, :]
    place = out + row.to(tl.int64)[:, None] * FEATURES + feature[None, :]
    tl.store(place, result.to(out.dtype.element_ty), mask=(row < end)[:, None] & (feature < FEATURES)[None, :])


@triton.jit
def _weighted_sum_kernel(rows, places, weights, out, WIDTH: tl.constexpr, TOP_K: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for choice in range(TOP_K):
        place = tl.load(places + token * TOP_K + choice)
        weight = tl.load(weights + token * TOP_K + choice).to(tl.float32)
        total += tl.load(rows + place * WIDTH + column, mask=inside, other=0.0).to(tl.float32) * weight
    tl.store(out + token * WIDTH + column, total.to(out.dtype.element_ty), mask=inside)


def grouped_product(rows: Rows, weight: Tensor, scale: Tensor | None, ends: Tensor) -> Tensor:
    """Return each row's product with the weight of its expert, (N, out), in the dtype of unquantized rows.

    Args:
        rows: (N, in), contiguous, sorted by expert; quantized if the weight is.
        weight: (experts, out, in), contiguous.
        scale: of a quantized weight's rows, (experts, out), float32.
        ends: the end of each expert's rows, (experts,), int32.
    """
    quantized = isinstance(rows, QuantizedRows)
    values = rows.values if isinstance(rows, QuantizedRows) else rows
    experts, features, width = weight.shape
    count = len(values)
    out = values.new_empty((count, features), dtype=rows.dtype)
    row_block, feature_block, width_block, stages, warps = TILES[weight.element_size()]
    if count < FEW_ROWS * experts:
        row_block = min(row_block, FEW_ROWS)
    # Each expert may have one tile that is not full.
    tiles = count // row_block + min(experts, count)
    _grouped_kernel[(tiles * triton.cdiv(features, feature_block),)](
        values,
        rows.scales if isinstance(rows, QuantizedRows) else values,
        weight,
        values if scale is None else scale,
        ends,
        out,
        FEATURES=features,
        WIDTH=width,
        EXPERTS=experts,
        EXPERT_BLOCK=triton.next_power_of_2(experts),
        ROW_BLOCK=row_block,
        FEATURE_BLOCK=feature_block,
        WIDTH_BLOCK=width_block,
        SCALED=quantized,
        WHOLE_NUMBERS=weight.dtype == torch.int8,
        num_stages=stages,
        num_warps=warps,
    )
    return out


def weighted_sum(rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Return what `Routing.weighted_sum` does; `places` and `weights` are the routing's."""
    (tokens, top_k), width = places.shape, rows.shape[1]
    out = rows.new_empty((tokens, width))
    block = min(SUM_BLOCK, triton.next_power_of_2(width))
    _weighted_sum_kernel[(tokens, triton.cdiv(width, block))](
        rows, places, weights, out, WIDTH=width, TOP_K=top_k, BLOCK=block, num_warps=4
    )
    return out
