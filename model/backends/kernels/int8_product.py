"""The product of int8 rows with an int8 weight, which applies both scales before it stores the result.

PyTorch's `_int_mm` stores int32 numbers, four bytes each, and a second kernel would have to scale them. Here the sums
stay in registers until they are scaled.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.network.projection import QuantizedRows

GROUPED_TILES = 8
"""Tiles of rows that run one after another over the same part of the weight, which then stays in the L2 cache."""
LARGE_MEMORY = 160 * 1024
"""Bytes of shared memory per multiprocessor from which the largest tiles fit (A100, Hopper)."""
LARGE_TILES = ((256, 128, 128, 3, 8), (128, 128, 128, 3, 8), (64, 128, 128, 3, 4), (32, 64, 128, 3, 4))
SMALL_TILES = ((128, 128, 64, 3, 8), (64, 128, 64, 3, 4), (32, 64, 128, 3, 4))
"""Tiles, largest first: rows, columns of the result, columns of the rows at once, stages, warps. The small ones are for
the 99 KiB of shared memory of GeForce cards."""


@triton.jit
def _product_kernel(
    rows,
    row_scales,
    weight,
    weight_scales,
    out,
    count,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    FEATURE_BLOCK: tl.constexpr,
    WIDTH_BLOCK: tl.constexpr,
    GROUPED: tl.constexpr,
):
    program = tl.program_id(0)
    row_tiles = tl.cdiv(count, ROW_BLOCK)
    feature_tiles: tl.constexpr = (FEATURES + FEATURE_BLOCK - 1) // FEATURE_BLOCK
    first = program // (GROUPED * feature_tiles) * GROUPED
    size = tl.minimum(row_tiles - first, GROUPED)
    row_tile = first + program % (GROUPED * feature_tiles) % size
    feature_tile = program % (GROUPED * feature_tiles) // size

    row = row_tile * ROW_BLOCK + tl.arange(0, ROW_BLOCK)
    feature = feature_tile * FEATURE_BLOCK + tl.arange(0, FEATURE_BLOCK)
    column = tl.arange(0, WIDTH_BLOCK)
    # Rows beyond the end read a row that exists, and are not stored. That is cheaper than a mask in the loop.
    row_start = rows + (row % count).to(tl.int64)[:, None] * WIDTH
    feature_start = weight + (feature % FEATURES).to(tl.int64)[None, :] * WIDTH
    total = tl.zeros((ROW_BLOCK, FEATURE_BLOCK), dtype=tl.int32)
    for begin in range(0, WIDTH, WIDTH_BLOCK):
        if WIDTH % WIDTH_BLOCK == 0:
            left = tl.load(row_start + (begin + column)[None, :])
            right = tl.load(feature_start + (begin + column)[:, None])
        else:
            inside = begin + column < WIDTH
            left = tl.load(row_start + (begin + column)[None, :], mask=inside[None, :], other=0)
            right = tl.load(feature_start + (begin + column)[:, None], mask=inside[:, None], other=0)
        total = tl.dot(left, right, total, out_dtype=tl.int32)
    left_scale = tl.load(row_scales + row, mask=row < count, other=0.0)
    right_scale = tl.load(weight_scales + feature, mask=feature < FEATURES, other=0.0)
    result = total.to(tl.float32) * left_scale[:, None] * right_scale[None, :]
    place = out + row.to(tl.int64)[:, None] * FEATURES + feature[None, :]
    tl.store(place, result.to(out.dtype.element_ty), mask=(row < count)[:, None] & (feature < FEATURES)[None, :])


def int8_product(rows: QuantizedRows, weight: Tensor, scale: Tensor) -> Tensor:
    """Return rows · weightᵀ with both scales, (N, out), in the dtype of the rows before quantization.

    Args:
        rows: values (N, in), int8, contiguous. N may be any number.
        weight: (out, in), int8, contiguous; both sizes are multiples of 16.
        scale: of each row of the weight, (out,), float32.
    """
    values, count, (features, width) = rows.values, len(rows), weight.shape
    out = values.new_empty((count, features), dtype=rows.dtype)
    if count == 0:
        return out
    row_block, feature_block, width_block, stages, warps = _tile(count, features, values.device)
    tiles = triton.cdiv(count, row_block) * triton.cdiv(features, feature_block)
    _product_kernel[(tiles,)](
        values,
        rows.scales,
        weight,
        scale,
        out,
        count,
        FEATURES=features,
        WIDTH=width,
        ROW_BLOCK=row_block,
        FEATURE_BLOCK=feature_block,
        WIDTH_BLOCK=width_block,
        GROUPED=GROUPED_TILES,
        num_stages=stages,
        num_warps=warps,
    )
    return out


def _tile(count: int, features: int, device: torch.device) -> tuple[int, int, int, int, int]:
    """Return the largest tile that leaves no multiprocessor idle, or the smallest one."""
    multiprocessors, memory = _multiprocessors(device)
    tiles = LARGE_TILES if memory >= LARGE_MEMORY else SMALL_TILES
    for tile in tiles:
        programs = triton.cdiv(count, tile[0]) * triton.cdiv(features, tile[1])
        if programs * 10 >= multiprocessors * 9:
            return tile
    return tiles[-1]


@functools.cache
def _multiprocessors(device: torch.device) -> tuple[int, int]:
    """Return the number of a GPU's multiprocessors, and the bytes of shared memory of each."""
    if device.type != "cuda":  # Triton's interpreter
        return 1, 0
    properties = torch.cuda.get_device_properties(device)
    return properties.multi_processor_count, properties.shared_memory_per_multiprocessor
