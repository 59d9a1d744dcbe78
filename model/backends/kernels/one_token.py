"""Kernels that run one token through a transformer block. There are six per block, and each reads its input once.

Reading the weights takes most of a token's time. PyTorch's kernels would leave gaps that take the same time again.
Numbers are rounded where `model.network` rounds them, so both give the same text except for the order of sums.
Quantized weights are the exception: their inputs are not quantized here. Inputs of rotated weights are rotated once per
token, in a kernel of their own before the product.

The kernels are in Triton (Tillet et al. 2019). The attention is FlashAttention (Dao 2023) with the keys split among
programs ("flash decoding"). A last kernel joins their results.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.backends.kernels.heads import rotated_quarters
from model.backends.kernels.rotation import rotated

KEY_BLOCK = 64
"""Keys that an attention program loads at once."""
SPLITS = 16
"""Programs that share the keys of one key/value head."""
LEAST_ROWS = 16
"""The fewest rows of a matrix that Triton multiplies. The query heads of a group are padded to this number."""
ROTATED_COLUMNS = 1024
"""Columns that a program rotates."""
LONG_ROW = 8192
"""Columns above which a matrix is read in wider tiles."""


@triton.jit
def _matrix_vector_kernel(
    vector,
    norm_weight,
    matrix,
    scale,
    residual,
    out,
    rows,
    eps,
    COLUMNS: tl.constexpr,
    ALL_COLUMNS: tl.constexpr,
    COLUMN_BLOCK: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    NORMED: tl.constexpr,
    GATED: tl.constexpr,
    ADDED: tl.constexpr,
    SCALED: tl.constexpr,
):
    row = tl.program_id(0) * ROW_BLOCK + tl.arange(0, ROW_BLOCK)
    valid = row[:, None] < rows
    start = row.to(tl.int64)[:, None] * COLUMNS
    element = out.dtype.element_ty
    rstd = 1.0
    if NORMED:
        all_columns = tl.arange(0, ALL_COLUMNS)
        whole_vector = tl.load(vector + all_columns, mask=all_columns < COLUMNS, other=0.0).to(tl.float32)
        rstd = tl.rsqrt(tl.sum(whole_vector * whole_vector, axis=0) / COLUMNS + eps)
    first = tl.zeros([ROW_BLOCK, COLUMN_BLOCK], dtype=tl.float32)
    second = tl.zeros([ROW_BLOCK, COLUMN_BLOCK], dtype=tl.float32)
    for begin in range(0, COLUMNS, COLUMN_BLOCK):
        column = begin + tl.arange(0, COLUMN_BLOCK)
        inside = column < COLUMNS
        offset = start + column[None, :]
        mask = valid & inside[None, :]
        weights = tl.load(matrix + offset, mask=mask, other=0.0, eviction_policy="evict_first")
        if GATED:
            ups = tl.load(
                matrix + rows.to(tl.int64) * COLUMNS + offset, mask=mask, other=0.0, eviction_policy="evict_first"
            )
        x = tl.load(vector + column, mask=inside, other=0.0)
        if NORMED:
            x = (x.to(tl.float32) * rstd).to(element).to(tl.float32)
            x = (x * tl.load(norm_weight + column, mask=inside, other=0.0).to(tl.float32)).to(element)
        x = x.to(tl.float32)[None, :]
        first += weights.to(tl.float32) * x
        if GATED:
            second += ups.to(tl.float32) * x
    result = tl.sum(first, axis=1)
    if SCALED:
        result *= tl.load(scale + row, mask=row < rows, other=0.0)
    if GATED:
        up = tl.sum(second, axis=1)
        if SCALED:
            up *= tl.load(scale + rows + row, mask=row < rows, other=0.0)
        gate = result.to(element).to(tl.float32)
        result = (gate / (1 + tl.exp(-gate))).to(element).to(tl.float32) * up.to(element).to(tl.float32)
    if ADDED:
        result = result.to(element).to(tl.float32) + tl.load(residual + row, mask=row < rows, other=0.0).to(tl.float32)
    tl.store(out + row, result.to(element), mask=row < rows)


@triton.jit
def _rotation_kernel(
    vector,
    norm_weight,
    out,
    eps,
    COLUMNS: tl.constexpr,
    ALL_COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    NORMED: tl.constexpr,
):
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < COLUMNS
    element = vector.dtype.element_ty
    x = tl.load(vector + column, mask=inside, other=0.0).to(tl.float32)
    if NORMED:
        all_columns = tl.arange(0, ALL_COLUMNS)
        whole_vector = tl.load(vector + all_columns, mask=all_columns < COLUMNS, other=0.0).to(tl.float32)
        rstd = tl.rsqrt(tl.sum(whole_vector * whole_vector, axis=0) / COLUMNS + eps)
        x = (x * rstd).to(element).to(tl.float32)
        x = (x * tl.load(norm_weight + column, mask=inside, other=0.0).to(tl.float32)).to(element).to(tl.float32)
    tl.store(out + column, rotated(x, BLOCK, GROUP), mask=inside)


@triton.jit
def _rotated(heads, valid, norm_weight, cosine, sine, eps, WIDTH: tl.constexpr):
    """Return `rotated_quarters` as one tile, (rows, WIDTH)."""
    half: tl.constexpr = WIDTH // 2
    eighth: tl.constexpr = WIDTH // 8
    time_a, time_b, space_a, space_b = rotated_quarters(heads, valid, norm_weight, cosine, sine, eps, WIDTH)
    rows: tl.constexpr = time_a.shape[0]
    time = tl.permute(tl.join(time_a, time_b), (0, 2, 1)).reshape(rows, half)
    space = tl.join(space_a.reshape(rows, 2, eighth), space_b.reshape(rows, 2, eighth))
    space = tl.permute(space, (0, 1, 3, 2)).reshape(rows, half)
    return tl.permute(tl.join(time, space), (0, 2, 1)).reshape(rows, WIDTH)


@triton.jit(do_not_specialize=["layer"])  # otherwise Triton compiles it for 1, for multiples of 16 and for others
def _attention_kernel(
    projected,
    q_norm,
    k_norm,
    cosine,
    sine,
    caches,
    state,
    partial,
    layer,
    eps,
    scale,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,
    SPLITS: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
):
    kv_head, split = tl.program_id(0), tl.program_id(1)
    group: tl.constexpr = HEADS // KV_HEADS
    element = projected.dtype.element_ty
    length, capacity = tl.load(state), tl.load(state + 1)
    keys = tl.load(caches + 2 * layer).to(tl.pointer_type(element)) + kv_head * capacity * WIDTH
    values = tl.load(caches + 2 * layer + 1).to(tl.pointer_type(element)) + kv_head * capacity * WIDTH
    column = tl.arange(0, WIDTH)
    query = tl.arange(0, QUERIES)
    valid = (query < group)[:, None]
    q = _rotated(projected + (kv_head * group + query[:, None]) * WIDTH, valid, q_norm, cosine, sine, eps, WIDTH)

    maximum = tl.full([QUERIES], float("-inf"), dtype=tl.float32)
    total = tl.zeros([QUERIES], dtype=tl.float32)
    attended = tl.zeros([QUERIES, WIDTH], dtype=tl.float32)
    if split == 0:
        # The new token itself. Only this program reads it, and it also writes it to the cache.
        one = tl.arange(0, 1)[:, None]
        own = projected + (HEADS + kv_head + one) * WIDTH
        key = _rotated(own, one == 0, k_norm, cosine, sine, eps, WIDTH)
        value = tl.load(own + KV_HEADS * WIDTH + column[None, :])
        tl.store(keys + length * WIDTH + column[None, :], key)
        tl.store(values + length * WIDTH + column[None, :], value)
        maximum = tl.sum(q.to(tl.float32) * key.to(tl.float32), axis=1) * scale
        total += 1.0
        attended += value.to(tl.float32)
    blocks = tl.cdiv(length, KEY_BLOCK)
    blocks_per_split = tl.cdiv(blocks, SPLITS)
    for block in range(split * blocks_per_split, tl.minimum((split + 1) * blocks_per_split, blocks)):
        position = block * KEY_BLOCK + tl.arange(0, KEY_BLOCK)
        inside = position < length
        offset = position[:, None] * WIDTH + column[None, :]
        k = tl.load(keys + offset, mask=inside[:, None], other=0.0)
        v = tl.load(values + offset, mask=inside[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(inside[None, :], scores, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, axis=1))
        weights = tl.exp(scores - new_maximum[:, None])
        decay = tl.exp(maximum - new_maximum)
        total = total * decay + tl.sum(weights, axis=1)
        attended = attended * decay[:, None] + tl.dot(weights.to(element), v, input_precision="ieee")
        maximum = new_maximum
    row = split * HEADS + kv_head * group + query
    tl.store(partial + row[:, None] * (WIDTH + 2) + column[None, :], attended, mask=valid)
    tl.store(partial + row * (WIDTH + 2) + WIDTH, maximum, mask=query < group)
    tl.store(partial + row * (WIDTH + 2) + WIDTH + 1, total, mask=query < group)


@triton.jit
def _join_kernel(partial, out, HEADS: tl.constexpr, WIDTH: tl.constexpr, SPLITS: tl.constexpr):
    head = tl.program_id(0)
    row = tl.arange(0, SPLITS) * HEADS + head
    column = tl.arange(0, WIDTH)
    maximum = tl.load(partial + row * (WIDTH + 2) + WIDTH)
    total = tl.load(partial + row * (WIDTH + 2) + WIDTH + 1)
    attended = tl.load(partial + row[:, None] * (WIDTH + 2) + column[None, :])
    weight = tl.exp(maximum - tl.max(maximum, axis=0))
    result = tl.sum(attended * weight[:, None], axis=0) / tl.sum(total * weight, axis=0)
    tl.store(out + head * WIDTH + column, result.to(out.dtype.element_ty))


def matrix_vector(
    matrix: Tensor,
    vector: Tensor,
    out: Tensor,
    *,
    norm: tuple[Tensor, float] | None = None,
    gated: bool = False,
    residual: Tensor | None = None,
    scale: Tensor | None = None,
) -> None:
    """Compute out = matrix · vector, with the norm before it and the gate or sum after it.

    Args:
        matrix: (rows, columns); with `gated` (2·rows, columns), gate above up.
        vector: (columns,), contiguous. out: (rows,), of the same type, unless the vector is rotated.
        norm: weight and epsilon of an RMS norm of the vector.
        gated: out = silu(gate · vector) · (up · vector).
        residual: (rows,), added to the result; may be `out`.
        scale: of each row of a quantized matrix, (rows,), float32.
    """
    rows, columns = out.numel(), vector.numel()
    weight, eps = norm or (vector, 0.0)
    row_block, column_block, warps = _blocks(columns, gated)
    _matrix_vector_kernel[(triton.cdiv(rows, row_block),)](
        vector,
        weight,
        matrix,
        vector if scale is None else scale,
        vector if residual is None else residual,
        out,
        rows,
        eps,
        COLUMNS=columns,
        ALL_COLUMNS=triton.next_power_of_2(columns),
        COLUMN_BLOCK=column_block,
        ROW_BLOCK=row_block,
        NORMED=norm is not None,
        GATED=gated,
        ADDED=residual is not None,
        SCALED=scale is not None,
        num_warps=warps,
    )


def rotate_vector(vector: Tensor, out: Tensor, group: int, norm: tuple[Tensor, float] | None = None) -> None:
    """Compute the rotation of a vector, with the norm before it, as input of a rotated weight.

    Args:
        vector: (columns,), contiguous. out: (columns,), float32.
        group: columns of a group of the rotation.
        norm: weight and epsilon of an RMS norm of the vector.
    """
    columns = vector.numel()
    weight, eps = norm or (vector, 0.0)
    block = min(ROTATED_COLUMNS, triton.next_power_of_2(columns))
    _rotation_kernel[(triton.cdiv(columns, block),)](
        vector,
        weight,
        out,
        eps,
        COLUMNS=columns,
        ALL_COLUMNS=triton.next_power_of_2(columns),
        BLOCK=block,
        GROUP=group,
        NORMED=norm is not None,
        num_warps=4,
    )


def _blocks(columns: int, gated: bool) -> tuple[int, int, int]:
    """Return rows and columns that a program reads at once, and its warps: the fastest for an 8B model on an H100."""
    if columns > LONG_ROW:
        return 4, 4096, 8
    return (1, 2048, 8) if gated else (4, 2048, 8)


def attention(
    projected: Tensor,
    norms: tuple[Tensor, Tensor],
    eps: float,
    rotary: tuple[Tensor, Tensor],
    caches: Tensor,
    state: Tensor,
    layer: int,
    partial: Tensor,
    out: Tensor,
) -> None:
    """Compute attention of one new token over a KV cache, and write its key and value there.

    The kernels read the addresses and the length of the cache from tensors, so a CUDA graph can use another cache.

    Args:
        projected: queries, keys and values of all heads, ((heads + 2·kv_heads)·head_dim,).
        norms: weights of the query and the key norm, head_dim numbers each.
        rotary: cosines and sines of the token's position, head_dim numbers each.
        caches: addresses of the layers' keys and values, (layers, 2) int64: (kv_heads, capacity, head_dim) each.
        state: length and capacity of the cache, int64.
        partial: scratch memory from `partial_results`.
        out: (heads·head_dim,).
    """
    width, kv_heads = rotary[0].numel(), (projected.numel() - out.numel()) // (2 * rotary[0].numel())
    heads = out.numel() // width
    _attention_kernel[(kv_heads, SPLITS)](
        projected,
        *norms,
        *rotary,
        caches,
        state,
        partial,
        layer,
        eps,
        width**-0.5,
        HEADS=heads,
        KV_HEADS=kv_heads,
        WIDTH=width,
        QUERIES=max(LEAST_ROWS, triton.next_power_of_2(heads // kv_heads)),
        SPLITS=SPLITS,
        KEY_BLOCK=KEY_BLOCK,
    )
    _join_kernel[(heads,)](partial, out, HEADS=heads, WIDTH=width, SPLITS=SPLITS)


def partial_results(heads: int, head_dim: int, device: torch.device) -> Tensor:
    """Allocate memory for the partial results of the attention programs: each head's weighted sum, greatest score and
    sum of weights."""
    return torch.empty(SPLITS, heads, head_dim + 2, dtype=torch.float32, device=device)
