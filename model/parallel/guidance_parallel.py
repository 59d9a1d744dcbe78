"""Guidance parallelism: ranks compute different branches of a step and all-gather the predictions.

If the und tower is split over more ranks than the gen tower, a rank's prefix holds the keys and values of only some of
the heads that the rank denoises with. Before a picture starts, the copies of the gen tower all-gather these heads. Each
rank keeps the heads of its own branches.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from model.events import Branch
from model.network.cache import KVCache
from model.network.configuration import TransformerConfig
from model.parallel.collectives import ProcessGroups
from model.sampling.backend import RankGroup
from model.sampling.prefill import DenoiseState, Prefix


class GuidanceGroup(RankGroup):
    """The ranks of a parallel layout, as denoising and decoding use them."""

    is_single = False

    def __init__(self, groups: ProcessGroups, config: TransformerConfig) -> None:
        """
        Args:
            config: the configuration of this rank's shard of the und tower.
        """
        self._groups = groups
        self.splits_heads = groups.und.shard.count > groups.gen.shard.count
        self._gen_config = replace(config, kv_heads=config.kv_heads * groups.und.shard.count // groups.gen.shard.count)

    def broadcast(self, tensor: Tensor) -> Tensor:
        return self._groups.broadcast(tensor.clone())  # the tensor may be a view of something that must not change

    def own_branches(self, branches: tuple[Branch, ...]) -> tuple[Branch, ...]:
        return branches[self._groups.layout.branches(self._groups.rank)]

    def denoise_states(self, prefixes: Mapping[Branch, Prefix], image_tokens: int) -> Mapping[Branch, DenoiseState]:
        if not self.splits_heads:
            return super().denoise_states(prefixes, image_tokens)
        own = self.own_branches(tuple(prefixes))
        denoise_states: dict[Branch, DenoiseState] = {}
        # Not a comprehension: its frame would keep the prefixes alive in an error's traceback.
        for branch, prefix in prefixes.items():
            if branch in own:
                capacity = prefix.cache.length + image_tokens
                cache = KVCache(self._gen_config, capacity, prefix.last_hidden.dtype, prefix.last_hidden.device)
                denoise_states[branch] = DenoiseState(cache, prefix.next_position)
                self._gather_heads(prefix.cache, cache)
            else:
                self._gather_heads(prefix.cache, None)
        return denoise_states

    def _gather_heads(self, part: KVCache, whole: KVCache | None) -> None:
        """All-gather the heads of a prefix from all copies, layer by layer, and write them into a new cache.

        Ranks that do not need the prefix pass None as `whole`.
        """
        for layer in range(self._gen_config.layers):
            keys, values = part.upto(layer, 0)
            # The copies' heads are neighbours (`ParallelLayout.shards`). Shape: (heads, 2, length, head_dim).
            heads = self._groups.all_gather(torch.stack((keys[0], values[0]), dim=1))
            if whole is not None:
                whole.write(layer, heads[None, :, 0], heads[None, :, 1])
        if whole is not None:
            whole.advance(part.length)

    def all_gather(self, branches: tuple[Branch, ...], predicted: Tensor) -> Tensor:
        copies = self._groups.layout.guidance
        if copies == 1:
            return predicted
        most = -(-len(branches) // copies)
        if len(predicted) < most:  # all ranks must gather equal shapes
            padding = predicted.new_zeros(most - len(predicted), *predicted.shape[1:])
            predicted = torch.cat([predicted, padding])
        gathered = self._groups.all_gather(predicted)
        # Branch i is prediction i // copies of copy i % copies. Slices, because a CUDA graph cannot capture indexing by
        # a list.
        rows = [number % copies * most + number // copies for number in range(len(branches))]
        return gathered if rows == list(range(len(gathered))) else torch.cat([gathered[row, None] for row in rows])
