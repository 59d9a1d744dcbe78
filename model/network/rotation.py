"""The rotation that spreads outliers of a row over its neighbours, so that eight bits hold the row well.

A row is cut into groups, and each group is multiplied with the regular Hadamard matrix: Kronecker powers of

    H4 = [[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]

divided by the square root of the group's size (ConvRot, 2025). The matrix is orthogonal and symmetric, so a product of
rotated rows with a rotated weight equals the product of the original ones.

H4/2 = (J/2 - I)·P, where J contains only ones and P reverses the order. Computing without P is cheaper, and leaves the
columns of each group in reverse order. A product does not depend on the order of columns if both factors have the same.
"""

from torch import Tensor

GROUP = 256
"""Columns of a group, in rows whose width it divides."""
BASE = 4
"""Rows of the smallest Hadamard matrix; a group is a power of it."""


def rotation_group(width: int) -> int:
    """Return the columns of a group in rows of this width: the largest power of 4 up to `GROUP` that divides it. 1, for
    rows that cannot be rotated, if 4 does not divide it."""
    group = GROUP
    while width % group:
        group //= BASE
    return group


def rotate(rows: Tensor, group: int = GROUP) -> Tensor:
    """Return rows (…, width) with each group of columns multiplied with the matrix, in float32.

    Equal rows give equal bits on every kind of device, because numbers are added in a fixed order.
    """
    return reverse_groups(rotate_reversed(rows, group), group)


def rotate_reversed(rows: Tensor, group: int = GROUP) -> Tensor:
    """Return `rotate` with the columns of each group in reverse order, which is cheaper to compute.

    Raises:
        ValueError: the group is not a power of 4, or does not divide the width.
    """
    require_group(rows.shape[-1], group)
    if group == 1:
        return rows.float()
    # The groups are the last axis, so that each stage adds long runs of memory.
    turned = rows.float().reshape(-1, group).t().contiguous()
    count = turned.shape[1]
    stride = 1
    while stride < group:
        first, second, third, fourth = turned.view(-1, BASE, stride * count).unbind(1)
        half = ((first + second) + (third + fourth)).mul_(0.5)
        turned = half[:, None] - turned.view(-1, BASE, stride * count)
        stride *= BASE
    return turned.view(group, count).t().reshape(rows.shape).contiguous()


def reverse_groups(values: Tensor, group: int) -> Tensor:
    """Return (…, width) with the columns of each group in reverse order, in memory of its own."""
    return values.unflatten(-1, (-1, group)).flip(-1).flatten(-2)


def require_group(width: int, group: int) -> None:
    """Raise ValueError unless rows of this width can be rotated in groups of this size."""
    power = 1
    while power < group:
        power *= BASE
    if group < 1 or power != group or width % group:
        raise ValueError(f"rows of {width} columns cannot be rotated in groups of {group}")
