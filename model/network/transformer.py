"""A tower: the transformer blocks of one kind of token, and its final norm."""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from model.network.attention import Attention, Visibility, attend
from model.network.cache import LayerCache
from model.network.configuration import DenseMLP, SparseExperts, TransformerConfig
from model.network.layers import RMSNorm, build_mlp
from model.network.rope import Rotary

TOKENS_TOGETHER = 4096
"""A GPU is busy with so many; at 2048×2048, which has as many in one branch, computing branches together gains nothing
(docs/performance.md)."""


class Block(nn.Module):
    """Pre-norm attention and pre-norm MLP, each added to the residual stream."""

    def __init__(self, config: TransformerConfig, mlp: DenseMLP | SparseExperts) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = build_mlp(config.hidden_size, mlp)

    def forward(
        self, hidden: Tensor, rotaries: Sequence[Rotary], caches: Sequence[LayerCache], layer: int, visible: Visibility
    ) -> Tensor:
        """hidden (B, N, hidden_size) → the same shape; see `Tower.forward`."""
        rows = hidden.flatten(0, 1)
        parts = self.attention.qkv_proj(self.attention_norm(rows)).view(*hidden.shape[:2], -1).chunk(len(caches))
        attended = []
        for part, rotary, cache in zip(parts, rotaries, caches, strict=True):
            each = attend(*self.attention.place(part, rotary, cache, layer), visible)
            attended.append(each.transpose(1, 2).flatten(2))
        joined = attended[0] if len(attended) == 1 else torch.cat(attended)
        rows = rows + self.attention.o_proj(joined.flatten(0, 1))
        return (rows + self.mlp(self.mlp_norm(rows))).view_as(hidden)


class Blocks(nn.ModuleList):
    """The blocks of a tower."""

    def through(self, layers: range | None = None) -> Iterator[tuple[int, Block]]:
        """Some of them in order, or all, each with its number."""
        for layer in range(len(self)) if layers is None else layers:
            yield layer, cast(Block, self[layer])


class Tower(nn.Module):
    """The understanding or the generation tower.

    The two ("mixture of transformers") have weights of their own and share the cache: what one tower leaves
    there the other attends to. One forward pass runs one tower.
    """

    def __init__(self, config: TransformerConfig, mlp: DenseMLP | SparseExperts) -> None:
        super().__init__()
        self.blocks = Blocks(Block(config, mlp) for _ in range(config.layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    @property
    def weight_itemsize(self) -> int:
        """Bytes of one number in the projections' weights."""
        return cast(Block, self.blocks[0]).attention.qkv_proj.weight.dtype.itemsize

    def forward(
        self,
        hidden: Tensor,
        rotaries: Sequence[Rotary],
        caches: Sequence[LayerCache],
        visible: Visibility,
        layers: range | None = None,
    ) -> Tensor:
        """Run new tokens on top of what the caches hold.

        Args:
            hidden: embeddings of the new tokens, or what earlier layers made of them, (B, N, hidden_size).
            caches: one for all B sequences, or several, each for an equal part of them in order: branches whose
                prefixes differ in length go through attention apart, and through the matrix products together where
                `together` says so. Either way all of them are done with a block before the next one begins.
            rotaries: tables for their positions, one pair for each cache.
            visible: what the N tokens may see.
            layers: those to run, all of them unless given.

        Returns:
            Hidden states before the final norm, (B, N, hidden_size): apply `norm` to the rows that are used.
        """
        parts, count = split_branches(hidden, len(caches))
        for layer, block in self.blocks.through(layers):
            for cache in caches:
                cache.begin(layer)
            for index, part in enumerate(parts):
                own = slice(index * count, (index + 1) * count)
                parts[index] = block(part, rotaries[own], caches[own], layer, visible)
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def together(branches: int, tokens: int, device: torch.device) -> bool:
    """Whether so many branches of so many tokens each go through the matrix products as one batch: on a GPU if their
    tokens alone would leave it idle; otherwise, and on a CPU, each by itself, which needs less memory."""
    return branches == 1 or (device.type != "cpu" and branches * tokens <= TOKENS_TOGETHER)


def split_branches(hidden: Tensor, branches: int) -> tuple[list[Tensor], int]:
    """(B, N, …) of all branches → what goes through the matrix products together, and how many branches that is."""
    if together(branches, hidden.shape[1], hidden.device):
        return [hidden], branches
    return list(hidden.chunk(branches)), 1
