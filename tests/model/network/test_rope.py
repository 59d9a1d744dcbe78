"""Positions and rotations."""

import torch

from model.network.rope import (
    attention_rotary,
    image_positions,
    patch_rotary,
    rotate_heads_,
    rotate_patches,
    text_positions,
)
from tests.model.network.test_attention import CONFIG

CPU = torch.device("cpu")


def test_positions() -> None:
    assert text_positions(5, 3, CPU).tolist() == [[5, 6, 7], [0, 0, 0], [0, 0, 0]]
    assert image_positions(9, 2, 3, CPU).tolist() == [[9] * 6, [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]]


def test_attention_sees_distances_only() -> None:
    """The product of a rotated query and key depends on how far apart they are on each axis, not on where."""
    q, k = torch.randn(2, 1, CONFIG.head_dim)

    def product(first: list[int], second: list[int]) -> torch.Tensor:
        tables = [attention_rotary(torch.tensor(place)[:, None], CONFIG, torch.float32) for place in (first, second)]
        return (rotate_heads_(q.clone(), tables[0]) * rotate_heads_(k.clone(), tables[1])).sum()

    near = product([3, 1, 2], [1, 4, 0])
    torch.testing.assert_close(product([13, 21, 32], [11, 24, 30]), near, rtol=1e-4, atol=1e-4)
    for axis in range(3):
        moved = [3, 1, 2]
        moved[axis] += 1
        assert (product(moved, [1, 4, 0]) - near).abs() > 1e-4


def test_each_axis_turns_its_own_part_of_a_head() -> None:
    x = torch.ones(1, CONFIG.head_dim)
    parts = {0: slice(0, 8), 1: slice(8, 12), 2: slice(12, 16)}
    for axis, part in parts.items():
        place = torch.zeros(3, 1, dtype=torch.long)
        place[axis] = 1
        turned = rotate_heads_(x.clone(), attention_rotary(place, CONFIG, torch.float32))
        changed = torch.zeros(16, dtype=torch.bool)
        changed[part] = True
        assert torch.equal((turned - x).abs()[0] > 1e-6, changed)


def test_patches_turn_by_column_then_by_row() -> None:
    rotary = patch_rotary(2, 3, 8, 1e4, CPU)
    x = torch.randn(6, 8)
    turned = rotate_patches(x, rotary)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[0], x[0])
    assert torch.equal(turned[1, 4:], x[1, 4:]), "the second patch has moved along the columns only"
    assert torch.equal(turned[3, :4], x[3, :4]), "the fourth one along the rows only"
