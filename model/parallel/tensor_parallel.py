"""Tensor parallelism: a network of which every rank holds a part, made to compute what the whole one does.

`model.checkpoint.sharding` defines the shards. A rank's heads and MLP columns give one summand of a block's update to
the residual stream. Ranks all-reduce these summands twice per block and communicate nothing else:

    hidden ─ norm ─ own heads ─ own columns of o ─ sum ─ + ─ norm ─ own gate, up ─ own columns of down ─ sum ─ +

The residual stream, norms, routers, picture embeddings and time embeddings are the same on all ranks. A token's
embedding is looked up where it is, and summed; logits are joined; a predicted picture is the sum of what each rank's
channels of the head say.

PyTorch's own `parallelize_module` would do the same by tensors that know how they are distributed (DTensor). It is
not used: what dispatches them costs the host more than an operation takes, and neither the fused kernels nor the
reading of slices could look into them.
"""

from collections.abc import Iterable
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from model.network.sensenova import SenseNovaU1
from model.network.transformer import Block, Tower
from model.parallel.collectives import ProcessGroups, TowerGroup


def join_parts(network: SenseNovaU1, vocabulary: int, groups: ProcessGroups) -> None:
    """Change a rank's network in place: what comes into its towers and what comes of them is from now on as in the
    whole network.

    Args:
        vocabulary: tokens of the whole network.
    """
    und, gen = groups.und, groups.gen
    if und.shard.count > 1:
        network.embed_tokens = SplitEmbedding(cast(nn.Parameter, network.embed_tokens.weight), und)
        network.lm_head = SplitHead(cast(nn.Parameter, network.lm_head.weight), vocabulary, und)
    if gen.shard.count > 1:
        if gen.shard.index > 0:
            cast(nn.Parameter, network.fm_head.second.bias).zero_()  # which is added once
        network.fm_head.register_forward_hook(lambda module, inputs, result: gen.all_reduce(result))


def sum_blocks(network: SenseNovaU1, groups: ProcessGroups) -> None:
    """Change a rank's network in place: what attention and MLP of each block return is from now on the sum over the
    ranks. For a network that runs as it is written; `model.backends.cuda` has sums of its own."""
    _sum_blocks(network.und, groups.und)
    _sum_blocks(network.gen, groups.gen)


def _sum_blocks(tower: Tower, group: TowerGroup) -> None:
    if group.shard.count == 1:
        return
    for block in cast(Iterable[Block], tower.blocks):
        for module in (block.attention.o_proj, block.mlp):
            module.register_forward_hook(lambda module, inputs, result: group.all_reduce(result))


class SplitEmbedding(nn.Embedding):
    """Rows of a part of the vocabulary; takes and gives what the whole embedding does."""

    def __init__(self, weight: nn.Parameter, group: TowerGroup) -> None:
        super().__init__(weight.shape[0], weight.shape[1], _weight=weight, _freeze=True)
        self.weight = weight
        self._first = group.shard.index * len(weight)
        self._group = group

    def forward(self, ids: Tensor) -> Tensor:
        local = ids - self._first
        here = (local >= 0) & (local < len(self.weight))
        rows = F.embedding(local.clamp(0, len(self.weight) - 1), self.weight)
        return self._group.all_reduce(rows.where(here[..., None], rows.new_zeros(())))


class SplitHead(nn.Linear):
    """Logits of a part of the vocabulary, joined to all of them."""

    def __init__(self, weight: nn.Parameter, vocabulary: int, group: TowerGroup) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = weight
        self._vocabulary = vocabulary
        self._group = group

    def forward(self, hidden: Tensor) -> Tensor:
        return self.joined(super().forward(hidden))

    def joined(self, logits: Tensor) -> Tensor:
        """(…, part of the vocabulary) → (…, vocabulary); what the last part is filled up with is left out."""
        return self._group.join(logits)[..., : self._vocabulary]
