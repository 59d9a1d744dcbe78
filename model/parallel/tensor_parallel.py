"""Tensor parallelism: the networks of several ranks, each with a shard of the weights, compute like the whole network.

`model.checkpoint.sharding` defines the shards. A rank's heads and MLP columns give one summand of a block's update to
the residual stream. Ranks all-reduce these summands twice per block and communicate nothing else:

    hidden ─ norm ─ own heads ─ own columns of o ─ sum ─ + ─ norm ─ own gate, up ─ own columns of down ─ sum ─ +

The residual stream, norms, routers, image embeddings and time embeddings are the same on all ranks. A token's embedding
is looked up on the rank that has its row, and summed. Logits are all-gathered. A rank's channels of `fm_head` give one
summand of the predicted image.

PyTorch's `parallelize_module` would do the same with DTensors. It is not used: dispatching a DTensor costs the host
more than an operation takes, and neither the fused kernels nor the reading of slices could use DTensors.
"""

from collections.abc import Callable
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from model.network.sensenova import SenseNovaU1
from model.parallel.collectives import ProcessGroups, TowerGroup


def apply_tensor_parallel(network: SenseNovaU1, vocabulary: int, groups: ProcessGroups) -> None:
    """Change a rank's network in place: its embeddings, logits and predictions become those of the whole network.

    Args:
        vocabulary: tokens of the whole network.
    """
    und, gen = groups.und, groups.gen
    if und.shard.count > 1:
        network.embed_tokens = SplitEmbedding(cast(nn.Parameter, network.embed_tokens.weight), und)
        # The last rank's part of the vocabulary is padded to the size of the others.
        network.lm_head.gather = lambda logits: und.all_gather(logits)[..., :vocabulary]
    if gen.shard.count > 1:
        if gen.shard.index > 0:
            cast(nn.Parameter, network.fm_head.second.bias).zero_()  # the sum must contain the bias once
        network.fm_head.register_forward_hook(lambda module, inputs, result: gen.all_reduce(result))


def block_reduction(group: TowerGroup | None) -> Callable[[Tensor], Tensor] | None:
    """Return the function that sums an update of the residual stream over the ranks that share a tower. None if this
    rank has the whole tower."""
    return group.all_reduce if group is not None and group.shard.count > 1 else None


class SplitEmbedding(nn.Embedding):
    """The embedding's rows for one part of the vocabulary; `forward` returns the same as the whole embedding."""

    def __init__(self, weight: nn.Parameter, group: TowerGroup) -> None:
        super().__init__(weight.shape[0], weight.shape[1], _weight=weight, _freeze=True)
        self.weight = weight
        self._first = group.shard.index * len(weight)
        self._group = group

    def forward(self, ids: Tensor) -> Tensor:
        local = ids - self._first
        is_local = (local >= 0) & (local < len(self.weight))
        rows = F.embedding(local.clamp(0, len(self.weight) - 1), self.weight)
        return self._group.all_reduce(rows.where(is_local[..., None], rows.new_zeros(())))
