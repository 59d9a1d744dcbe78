"""One kernel for query and key heads: the norms of both halves, the rotation, and the write to the cache.

Numbers are rounded where `model.network` rounds them.
"""

import triton
import triton.language as tl
from torch import Tensor

QUERY_ROWS = 16
"""Query heads per program."""
WARPS = 2


@triton.jit
def quarter_columns(WIDTH: tl.constexpr):
    """Return the columns of a head in four tiles: two that time rotates into each other, and two for row and column."""
    quarter: tl.constexpr = WIDTH // 4
    eighth: tl.constexpr = WIDTH // 8
    index = tl.arange(0, quarter)
    space = 2 * quarter + index // eighth * quarter + index % eighth
    return index, index + quarter, space, space + eighth


@triton.jit
def _scaled(x, rstd, norm_weight, column):
    element = norm_weight.dtype.element_ty
    x = (x * rstd[:, None]).to(element).to(tl.float32) * tl.load(norm_weight + column).to(tl.float32)[None, :]
    return x.to(element).to(tl.float32)


@triton.jit
def _rotated(x, other, cosine, sine, column):
    """Rotate one tile: its own part and the part of the other tile."""
    element = cosine.dtype.element_ty
    x = (x * tl.load(cosine + column).to(tl.float32)[None, :]).to(element).to(tl.float32)
    other = (other * tl.load(sine + column).to(tl.float32)[None, :]).to(element).to(tl.float32)
    return (x + other).to(element)


@triton.jit
def rotated_quarters(heads, valid, norm_weight, cosine, sine, eps, WIDTH: tl.constexpr):
    """Norm and rotate heads, and return their tiles (rows, WIDTH/4) as in `quarter_columns`.

    `heads` (rows, 1) points to the first number of each head. Heads are read where the mask `valid` is True. All other
    pointers are to WIDTH numbers each.
    """
    half: tl.constexpr = WIDTH // 2
    a, b, c, d = quarter_columns(WIDTH)
    time_a = tl.load(heads + a[None, :], mask=valid, other=0.0).to(tl.float32)
    time_b = tl.load(heads + b[None, :], mask=valid, other=0.0).to(tl.float32)
    space_a = tl.load(heads + c[None, :], mask=valid, other=0.0).to(tl.float32)
    space_b = tl.load(heads + d[None, :], mask=valid, other=0.0).to(tl.float32)
    time_rstd = tl.rsqrt(tl.sum(time_a * time_a + time_b * time_b, axis=1) / half + eps)
    space_rstd = tl.rsqrt(tl.sum(space_a * space_a + space_b * space_b, axis=1) / half + eps)
    time_a = _scaled(time_a, time_rstd, norm_weight, a)
    time_b = _scaled(time_b, time_rstd, norm_weight, b)
    space_a = _scaled(space_a, space_rstd, norm_weight, c)
    space_b = _scaled(space_b, space_rstd, norm_weight, d)
    return (
        _rotated(time_a, time_b, cosine, sine, a),
        _rotated(time_b, time_a, cosine, sine, b),
        _rotated(space_a, space_b, cosine, sine, c),
        _rotated(space_b, space_a, cosine, sine, d),
    )


@triton.jit
def store_rotated(target, valid, heads, norm_weight, cosine, sine, eps, WIDTH: tl.constexpr):
    """Norm and rotate heads, and store them where `target` (rows, 1) points."""
    a, b, c, d = quarter_columns(WIDTH)
    time_a, time_b, space_a, space_b = rotated_quarters(heads, valid, norm_weight, cosine, sine, eps, WIDTH)
    tl.store(target + a[None, :], time_a, mask=valid)
    tl.store(target + b[None, :], time_b, mask=valid)
    tl.store(target + c[None, :], space_a, mask=valid)
    tl.store(target + d[None, :], space_b, mask=valid)


@triton.jit
def _place_kernel(
    projected,
    q_norm,
    k_norm,
    cosine,
    sine,
    queries,
    keys,
    values,
    head_stride,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERY_ROWS: tl.constexpr,
    KV_ROWS: tl.constexpr,
):
    token, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    projected += token * (HEADS + 2 * KV_HEADS) * WIDTH
    cosine += token * WIDTH
    sine += token * WIDTH
    if part * QUERY_ROWS < HEADS:
        head = (part * QUERY_ROWS + tl.arange(0, QUERY_ROWS))[:, None]
        queries += token * HEADS * WIDTH
        store_rotated(queries + head * WIDTH, head < HEADS, projected + head * WIDTH, q_norm, cosine, sine, eps, WIDTH)
    else:
        kv_head = tl.arange(0, KV_ROWS)[:, None]
        valid = kv_head < KV_HEADS
        offset = kv_head * head_stride + token * WIDTH
        key = projected + (HEADS + kv_head) * WIDTH
        store_rotated(keys + offset, valid, key, k_norm, cosine, sine, eps, WIDTH)
        column = tl.arange(0, WIDTH)[None, :]
        tl.store(values + offset + column, tl.load(key + KV_HEADS * WIDTH + column, mask=valid, other=0.0), mask=valid)


def place_heads(
    projected: Tensor,
    norms: tuple[Tensor, Tensor],
    eps: float,
    rotary: tuple[Tensor, Tensor],
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
) -> None:
    """Norm and rotate the queries and keys of a run of tokens. Write queries to `queries`, keys and values to a cache.

    Args:
        projected: queries, keys and values of all heads, (N, (heads + 2·kv_heads)·head_dim), contiguous.
        norms: weights of the query and the key norm, head_dim numbers each.
        rotary: cosines and sines, (N, head_dim).
        queries: (N, heads, head_dim), contiguous; written to.
        keys, values: (kv_heads, N, head_dim), the tokens of a head contiguous; written to.
    """
    tokens, heads, width = queries.shape
    kv_heads = keys.shape[0]
    _place_kernel[(tokens, triton.cdiv(heads, QUERY_ROWS) + 1)](
        projected,
        *norms,
        *rotary,
        queries,
        keys,
        values,
        keys.stride(0),
        eps,
        HEADS=heads,
        KV_HEADS=kv_heads,
        WIDTH=width,
        QUERY_ROWS=QUERY_ROWS,
        KV_ROWS=triton.next_power_of_2(kv_heads),
        num_warps=WARPS,
    )
