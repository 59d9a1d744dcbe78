"""Kernels that run one token through its experts. They read the weights of those experts only.

Like the kernels of `one_token` they round where `model.network` rounds, and do not quantize their inputs.
"""

import triton
import triton.language as tl
from torch import Tensor

ROW_BLOCK = 4
"""Rows of a weight that a program multiplies."""
MOST_COLUMNS = 2048
"""The most columns that a program reads at once."""


@triton.jit
def _choose_kernel(
    logits,
    chosen,
    weights,
    EXPERTS: tl.constexpr,
    BLOCK: tl.constexpr,
    TOP_K: tl.constexpr,
    CHOICE_BLOCK: tl.constexpr,
    RENORMALISED: tl.constexpr,
):
    expert = tl.arange(0, BLOCK)
    choice = tl.arange(0, CHOICE_BLOCK)
    logit = tl.load(logits + expert, mask=expert < EXPERTS, other=float("-inf")).to(tl.float32)
    share = tl.exp(logit - tl.max(logit, axis=0))
    share = share / tl.sum(share, axis=0)
    # Weights that are not loaded yet may give NaN, and the number of no expert.
    share = tl.where(share == share, share, 0.0)
    best = tl.zeros([CHOICE_BLOCK], dtype=tl.int32)
    kept = tl.zeros([CHOICE_BLOCK], dtype=tl.float32)
    for number in range(TOP_K):
        found = tl.argmax(share, axis=0)
        best = tl.where(choice == number, found, best)
        kept = tl.where(choice == number, tl.max(share, axis=0), kept)
        share = tl.where(expert == found, -1.0, share)
    if RENORMALISED:
        kept = kept / tl.sum(kept, axis=0)
    tl.store(chosen + choice, best, mask=choice < TOP_K)
    tl.store(weights + choice, kept.to(weights.dtype.element_ty), mask=choice < TOP_K)


@triton.jit
def _gate_up_kernel(
    vector,
    norm_weight,
    matrices,
    scales,
    chosen,
    out,
    eps,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ALL_COLUMNS: tl.constexpr,
    COLUMN_BLOCK: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    NORMED: tl.constexpr,
    SCALED: tl.constexpr,
):
    choice = tl.program_id(1)
    gate_row = tl.load(chosen + choice).to(tl.int64) * (2 * ROWS)
    row = tl.program_id(0) * ROW_BLOCK + tl.arange(0, ROW_BLOCK)
    valid = row < ROWS
    start = (gate_row + row)[:, None] * COLUMNS
    element = out.dtype.element_ty
    rstd = 1.0
    if NORMED:
        all_columns = tl.arange(0, ALL_COLUMNS)
        whole_vector = tl.load(vector + all_columns, mask=all_columns < COLUMNS, other=0.0).to(tl.float32)
        rstd = tl.rsqrt(tl.sum(whole_vector * whole_vector, axis=0) / COLUMNS + eps)
    gates = tl.zeros([ROW_BLOCK, COLUMN_BLOCK], dtype=tl.float32)
    ups = tl.zeros([ROW_BLOCK, COLUMN_BLOCK], dtype=tl.float32)
    for begin in range(0, COLUMNS, COLUMN_BLOCK):
        column = begin + tl.arange(0, COLUMN_BLOCK)
        inside = column < COLUMNS
        offset = start + column[None, :]
        mask = valid[:, None] & inside[None, :]
        gate = tl.load(matrices + offset, mask=mask, other=0.0)
        up = tl.load(matrices + ROWS * COLUMNS + offset, mask=mask, other=0.0)
        x = tl.load(vector + column, mask=inside, other=0.0)
        if NORMED:
            x = (x.to(tl.float32) * rstd).to(element).to(tl.float32)
            x = (x * tl.load(norm_weight + column, mask=inside, other=0.0).to(tl.float32)).to(element)
        x = x.to(tl.float32)[None, :]
        gates += gate.to(tl.float32) * x
        ups += up.to(tl.float32) * x
    gate_sum = tl.sum(gates, axis=1)
    up_sum = tl.sum(ups, axis=1)
    if SCALED:
        gate_sum *= tl.load(scales + gate_row + row, mask=valid, other=0.0)
        up_sum *= tl.load(scales + gate_row + ROWS + row, mask=valid, other=0.0)
    gate_sum = gate_sum.to(element).to(tl.float32)
    result = (gate_sum / (1 + tl.exp(-gate_sum))).to(element).to(tl.float32) * up_sum.to(element).to(tl.float32)
    tl.store(out + choice * ROWS + row, result.to(element), mask=valid)


@triton.jit
def _down_kernel(
    inner,
    matrices,
    scales,
    chosen,
    weights,
    residual,
    out,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    COLUMN_BLOCK: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    TOP_K: tl.constexpr,
    ADDED: tl.constexpr,
    SCALED: tl.constexpr,
):
    row = tl.program_id(0) * ROW_BLOCK + tl.arange(0, ROW_BLOCK)
    valid = row < ROWS
    element = out.dtype.element_ty
    result = tl.zeros([ROW_BLOCK], dtype=tl.float32)
    for choice in range(TOP_K):
        first_row = tl.load(chosen + choice).to(tl.int64) * ROWS
        products = tl.zeros([ROW_BLOCK, COLUMN_BLOCK], dtype=tl.float32)
        for begin in range(0, COLUMNS, COLUMN_BLOCK):
            column = begin + tl.arange(0, COLUMN_BLOCK)
            inside = column < COLUMNS
            offset = (first_row + row)[:, None] * COLUMNS + column[None, :]
            matrix = tl.load(matrices + offset, mask=valid[:, None] & inside[None, :], other=0.0)
            x = tl.load(inner + choice * COLUMNS + column, mask=inside, other=0.0)
            products += matrix.to(tl.float32) * x.to(tl.float32)[None, :]
        own = tl.sum(products, axis=1)
        if SCALED:
            own *= tl.load(scales + first_row + row, mask=valid, other=0.0)
        result += own.to(element).to(tl.float32) * tl.load(weights + choice).to(tl.float32)
    if ADDED:
        result = result.to(element).to(tl.float32) + tl.load(residual + row, mask=valid, other=0.0).to(tl.float32)
    tl.store(out + row, result.to(element), mask=valid)


def choose_experts(logits: Tensor, chosen: Tensor, weights: Tensor, *, renormalised: bool) -> None:
    """Compute a token's experts and their weights.

    Args:
        logits: of the router, (experts,).
        chosen: (top_k,), int32. weights: (top_k,), in the model's dtype. Both are written.
        renormalised: whether the weights add up to 1.
    """
    experts, top_k = logits.numel(), chosen.numel()
    _choose_kernel[(1,)](
        logits,
        chosen,
        weights,
        EXPERTS=experts,
        BLOCK=triton.next_power_of_2(experts),
        TOP_K=top_k,
        CHOICE_BLOCK=triton.next_power_of_2(top_k),
        RENORMALISED=renormalised,
        num_warps=1,
    )


def gated_experts(
    matrices: Tensor,
    vector: Tensor,
    chosen: Tensor,
    out: Tensor,
    *,
    norm: tuple[Tensor, float] | None = None,
    scale: Tensor | None = None,
) -> None:
    """Compute silu(gate · vector) · (up · vector) of a token's experts, with the norm before it.

    Args:
        matrices: (experts, 2·rows, columns), gate above up.
        vector: (columns,), contiguous. chosen: (top_k,), int32. out: (top_k, rows), contiguous.
        norm: weight and epsilon of an RMS norm of the vector.
        scale: of each row of quantized matrices, (experts, 2·rows), float32.
    """
    (top_k, rows), columns = out.shape, vector.numel()
    weight, eps = norm or (vector, 0.0)
    _gate_up_kernel[(triton.cdiv(rows, ROW_BLOCK), top_k)](
        vector,
        weight,
        matrices,
        vector if scale is None else scale,
        chosen,
        out,
        eps,
        ROWS=rows,
        COLUMNS=columns,
        ALL_COLUMNS=triton.next_power_of_2(columns),
        COLUMN_BLOCK=min(MOST_COLUMNS, triton.next_power_of_2(columns)),
        ROW_BLOCK=ROW_BLOCK,
        NORMED=norm is not None,
        SCALED=scale is not None,
        num_warps=8,
    )


def add_experts(
    matrices: Tensor,
    inner: Tensor,
    chosen: Tensor,
    weights: Tensor,
    out: Tensor,
    *,
    residual: Tensor | None = None,
    scale: Tensor | None = None,
) -> None:
    """Compute the weighted sum of a token's experts, given their inner activations.

    Args:
        matrices: (experts, rows, columns).
        inner: (top_k, columns), contiguous. chosen, weights: (top_k,), from `choose_experts`. out: (rows,).
        residual: (rows,), added to the result; may be `out`.
        scale: of each row of quantized matrices, (experts, rows), float32.
    """
    rows, (top_k, columns) = out.numel(), inner.shape
    _down_kernel[(triton.cdiv(rows, ROW_BLOCK),)](
        inner,
        matrices,
        inner if scale is None else scale,
        chosen,
        weights,
        inner if residual is None else residual,
        out,
        ROWS=rows,
        COLUMNS=columns,
        COLUMN_BLOCK=min(MOST_COLUMNS, triton.next_power_of_2(columns)),
        ROW_BLOCK=ROW_BLOCK,
        TOP_K=top_k,
        ADDED=residual is not None,
        SCALED=scale is not None,
        num_warps=4,
    )
