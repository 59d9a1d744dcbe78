"""The rotation: the regular Hadamard matrix in groups of columns."""

import pytest
import torch
from torch import Tensor

from model.network.rotation import reverse_groups, rotate, rotate_reversed, rotation_group

SMALLEST = torch.tensor([[1.0, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]])


def matrix(group: int) -> Tensor:
    """Return the definition: Kronecker powers of the smallest matrix, divided by the square root of the size."""
    made = torch.ones(1, 1)
    while len(made) < group:
        made = torch.kron(made, SMALLEST)
    return made / group**0.5


@pytest.mark.parametrize(
    ("width", "group"), [(4096, 256), (12288, 256), (768, 256), (320, 64), (48, 16), (12, 4), (4, 4), (10, 1), (7, 1)]
)
def test_rows_are_multiplied_with_the_matrix_group_by_group(width: int, group: int) -> None:
    assert rotation_group(width) == group
    rows = torch.randn(3, 5, width, generator=torch.Generator().manual_seed(1))
    expected = rows.unflatten(-1, (-1, group)) @ matrix(group)
    torch.testing.assert_close(rotate(rows, group), expected.flatten(-2), atol=1e-5, rtol=0)


def test_it_is_its_own_inverse_and_keeps_products() -> None:
    rows, weight = torch.randn(4, 512), torch.randn(6, 512)
    torch.testing.assert_close(rotate(rotate(rows)), rows, atol=1e-5, rtol=0)
    torch.testing.assert_close(rotate(rows) @ rotate(weight).T, rows @ weight.T, atol=1e-3, rtol=0)
    torch.testing.assert_close(rotate_reversed(rows) @ rotate_reversed(weight).T, rows @ weight.T, atol=1e-3, rtol=0)


def test_the_cheaper_order_is_the_reverse_of_each_group() -> None:
    rows = torch.randn(2, 128)
    assert torch.equal(reverse_groups(rotate_reversed(rows, 64), 64), rotate(rows, 64))
    assert reverse_groups(torch.arange(8)[None], 4).tolist() == [[3, 2, 1, 0, 7, 6, 5, 4]]


def test_the_bits_of_a_row_do_not_depend_on_the_other_rows() -> None:
    rows = torch.randn(300, 1024)
    whole = rotate(rows)
    assert torch.equal(rotate(rows[7:8]), whole[7:8]) and torch.equal(rotate(rows[100:]), whole[100:])


@pytest.mark.parametrize(("width", "group"), [(64, 256), (96, 64), (64, 8), (64, 0), (64, 32)])
def test_other_groups_are_refused(width: int, group: int) -> None:
    with pytest.raises(ValueError, match=f"rows of {width} columns cannot be rotated in groups of {group}"):
        rotate(torch.zeros(1, width), group)
