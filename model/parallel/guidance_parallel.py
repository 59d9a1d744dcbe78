"""Guidance parallelism: the branches of a step on different ranks, and one exchange of what they predict.

Where the und tower is split over more ranks than the gen tower, a rank has of each prefix the keys and values of its
part of the heads. Before a picture is begun, the ranks with the same part of the gen tower, one of each copy, give one
another theirs; each keeps those of its own branches, with all heads that it draws with.
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
    """The other ranks, as the picture loop and the text loop see them."""

    def __init__(self, groups: ProcessGroups, config: TransformerConfig) -> None:
        """config: of the part of the und tower that this rank has."""
        self._groups = groups
        self.split_heads = groups.und.shard.count > groups.gen.shard.count
        self._drawing = replace(config, kv_heads=config.kv_heads * groups.und.shard.count // groups.gen.shard.count)

    def broadcast(self, numbers: Tensor) -> Tensor:
        return self._groups.broadcast(numbers.clone())  # not onto a view that something else looks at

    def own(self, branches: tuple[Branch, ...]) -> tuple[Branch, ...]:
        return branches[self._groups.position.branches]

    def denoise_states(self, prefixes: Mapping[Branch, Prefix], image_tokens: int) -> Mapping[Branch, DenoiseState]:
        if not self.split_heads:
            return super().denoise_states(prefixes, image_tokens)
        own = self.own(tuple(prefixes))
        denoise_states: dict[Branch, DenoiseState] = {}
        # No comprehension: the frames of an error would keep the prefixes.
        for branch, prefix in prefixes.items():
            if branch in own:
                room = prefix.cache.length + image_tokens
                cache = KVCache(self._drawing, room, prefix.last_hidden.dtype, prefix.last_hidden.device)
                denoise_states[branch] = DenoiseState(cache, prefix.next_position)
                self._gather(prefix.cache, cache)
            else:
                self._gather(prefix.cache, None)
        return denoise_states

    def _gather(self, part: KVCache, whole: KVCache | None) -> None:
        """Bring what all copies have of a prefix together in a new cache, layer by layer; every rank takes part, also
        those that have no use for it."""
        for layer in range(self._drawing.layers):
            keys, values = part.upto(layer, 0)
            # Of all copies in order, whose heads are neighbours: see `Position.shards`. (heads, 2, length, head_dim)
            heads = self._groups.all_gather(torch.stack((keys[0], values[0]), dim=1))
            if whole is not None:
                whole.write(layer, heads[None, :, 0], heads[None, :, 1])
        if whole is not None:
            whole.advance(part.length)

    def all_gather(self, branches: tuple[Branch, ...], predicted: Tensor) -> Tensor:
        groups = self._groups.position.guidance
        if groups == 1:
            return predicted
        most = -(-len(branches) // groups)
        if len(predicted) < most:  # an exchange is of equal parts
            missing = predicted.new_zeros(most - len(predicted), *predicted.shape[1:])
            predicted = torch.cat([predicted, missing])
        every = self._groups.all_gather(predicted)
        # Branch i is number i // groups of network i % groups. Slices, which a CUDA graph can hold, not an index.
        places = [number % groups * most + number // groups for number in range(len(branches))]
        return every if places == list(range(len(every))) else torch.cat([every[place, None] for place in places])
