"""The rotation of `model.network.rotation` inside a kernel, for rows that a program holds in registers."""

import triton
import triton.language as tl


@triton.jit
def rotated(row, COUNT: tl.constexpr, GROUP: tl.constexpr):
    """Return `rotate_reversed` of COUNT float32 numbers in groups of GROUP, which may be 1."""
    if GROUP >= 4:
        row = _stage(row, COUNT, 1)
    if GROUP >= 16:
        row = _stage(row, COUNT, 4)
    if GROUP >= 64:
        row = _stage(row, COUNT, 16)
    if GROUP >= 256:
        row = _stage(row, COUNT, 64)
    return row


@triton.jit
def _stage(row, COUNT: tl.constexpr, STRIDE: tl.constexpr):
    """Multiply numbers that are STRIDE apart, four at a time, with J/2 - I."""
    fours = tl.reshape(row, (COUNT // (4 * STRIDE), 4, STRIDE))
    half = tl.sum(fours, axis=1) * 0.5
    return tl.reshape(half[:, None, :] - fours, (COUNT,))
