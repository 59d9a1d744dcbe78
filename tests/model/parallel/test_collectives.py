"""Which part of the network each rank has."""

import pytest

from model.checkpoint.sharding import Shard
from model.parallel.collectives import Position


@pytest.mark.parametrize(("tensor", "guidance"), [(1, 2), (2, 1), (2, 2), (1, 4), (4, 2)])
def test_parts_of_the_und_tower_make_those_of_the_gen_tower(tensor: int, guidance: int) -> None:
    """What ranks with the same part of the gen tower have of the und tower lies side by side there, in their order."""
    positions = [Position(rank, tensor, guidance, splits_und=True) for rank in range(tensor * guidance)]
    assert sorted(each.shards.und.index for each in positions) == list(range(tensor * guidance))
    for part in range(tensor):
        copies = [each.shards.und for each in positions if each.shards.gen == Shard(part, tensor)]
        assert copies == [Shard(part * guidance + copy, tensor * guidance) for copy in range(guidance)]


def test_where_heads_cannot_be_shared_by_all_ranks_the_towers_have_the_same_parts() -> None:
    positions = [Position(rank, 2, 3, splits_und=False) for rank in range(6)]
    assert all(each.shards.und == each.shards.gen for each in positions)
    assert [each.shards.gen.index for each in positions] == [0, 1, 0, 1, 0, 1]
