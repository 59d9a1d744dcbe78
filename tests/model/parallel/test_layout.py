"""The shards of each rank in a parallel layout."""

import subprocess
import sys

import pytest

from model.checkpoint.sharding import Shard
from model.parallel.layout import ParallelLayout
from tests.cli.harness import REPOSITORY


@pytest.mark.parametrize(("tensor", "guidance"), [(1, 2), (2, 1), (2, 2), (1, 4), (4, 2)])
def test_und_shards_of_equal_gen_shards_are_neighbours(tensor: int, guidance: int) -> None:
    """The und shards of ranks with equal gen shards are neighbours, in the ranks' order."""
    layout = ParallelLayout(tensor, guidance, splits_und=True)
    shards = [layout.shards(rank) for rank in range(layout.size)]
    assert sorted(each.und.index for each in shards) == list(range(layout.size))
    for part in range(tensor):
        copies = [each.und for each in shards if each.gen == Shard(part, tensor)]
        assert copies == [Shard(part * guidance + copy, tensor * guidance) for copy in range(guidance)]


def test_without_splits_und_the_towers_are_split_alike() -> None:
    shards = [ParallelLayout(2, 3).shards(rank) for rank in range(6)]
    assert all(each.und == each.gen for each in shards)
    assert [each.gen.index for each in shards] == [0, 1, 0, 1, 0, 1]


def test_branches_go_to_the_copies_in_turn() -> None:
    layout, branches = ParallelLayout(2, 2), ("condition", "images", "unconditional")
    assert [branches[layout.branches(rank)] for rank in range(4)] == [
        ("condition", "unconditional"),
        ("condition", "unconditional"),
        ("images",),
        ("images",),
    ]


def test_importing_the_layout_does_not_import_torch() -> None:
    code = "import sys, model.parallel.layout, model.parallel.processes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
