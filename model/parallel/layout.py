"""The parallel layout: how ranks split the towers of a network and the branches of guidance.

There are `guidance` copies of the gen tower, and each copy is split over `tensor` ranks. A copy denoises its own
branches. The und tower is split like the gen tower, or over all ranks. With tensor 2, guidance 2 and `splits_und`:

    rank                 0  1  2  3
    shard of gen         0  1  0  1    of 2: the ranks of a copy all-reduce in every block
    copy of gen          0  0  1  1    ranks with equal shards all-gather predictions, and the prefixes' heads
    shard of und         0  2  1  3    of 4: the und shards of equal gen shards are neighbours

Importing this module does not import PyTorch.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.checkpoint.sharding import Shards


@dataclass(frozen=True)
class ParallelLayout:
    """How `size` ranks share a network.

    Attributes:
        tensor: ranks that share a copy of the gen tower.
        guidance: copies of the gen tower.
        splits_und: True if the und tower is split over all ranks; False if it is split like the gen tower.
    """

    tensor: int = 1
    guidance: int = 1
    splits_und: bool = False

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self.tensor * self.guidance

    def shards(self, rank: int) -> "Shards":
        """Return a rank's shards of both towers."""
        from model.checkpoint.sharding import Shard, Shards

        copy, part = divmod(rank, self.tensor)
        gen = Shard(part, self.tensor)
        return Shards(Shard(part * self.guidance + copy, self.size) if self.splits_und else gen, gen)

    def branches(self, rank: int) -> slice:
        """Return the slice of a step's guidance branches that a rank computes."""
        return slice(rank // self.tensor, None, self.guidance)

    def describe(self) -> str:
        """Return the layout in words, as the settings that ask for it."""
        sizes = f"shared as by `tensor_parallel_size` {self.tensor} `cfg_parallel_size` {self.guidance}"
        return f"{sizes}, text by all {self.size}" if self.splits_und else sizes
