"""A tower: the transformer blocks of one kind of token, and its final norm."""

from collections.abc import Sequence

from torch import Tensor, nn

from model.network.attention import Attention, Visibility, attend
from model.network.cache import KVCache
from model.network.configuration import DenseMLP, SparseExperts, TransformerConfig
from model.network.layers import RMSNorm, build_mlp
from model.network.rope import Rotary


class Block(nn.Module):
    """Pre-norm attention and pre-norm MLP, each added to the residual stream."""

    def __init__(self, config: TransformerConfig, mlp: DenseMLP | SparseExperts) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = build_mlp(config.hidden_size, mlp)

    def forward(
        self, hidden: Tensor, rotary: Rotary, caches: Sequence[KVCache], layer: int, visible: Visibility
    ) -> Tensor:
        parts = (projected.chunk(len(caches)) for projected in self.enter(hidden, rotary))
        attended = [attend(q, *cache.write(layer, k, v), visible) for cache, q, k, v in zip(caches, *parts, strict=True)]
        return self.leave(hidden, attended)

    def enter(self, hidden: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """The part before attention: queries, keys and values of the new tokens."""
        return self.attention.project(self.attention_norm(hidden), rotary)

    def leave(self, hidden: Tensor, attended: Sequence[Tensor]) -> Tensor:
        """The part behind attention."""
        hidden = hidden + self.attention.join(attended)
        return hidden + self.mlp(self.mlp_norm(hidden))


class Tower(nn.Module):
    """The understanding or the generation tower.

    The two ("mixture of transformers") have weights of their own and share the cache: what one tower leaves
    there the other attends to. One forward pass runs one tower.
    """

    def __init__(self, config: TransformerConfig, mlp: DenseMLP | SparseExperts) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, mlp) for _ in range(config.layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden: Tensor, rotary: Rotary, caches: Sequence[KVCache], visible: Visibility) -> Tensor:
        """Run new tokens on top of what the caches hold.

        Args:
            hidden: embeddings of the new tokens, (B, N, hidden_size).
            caches: one for all B sequences, or several, each for an equal part of them in order: branches whose
                prefixes differ in length go through the matrix products together and through attention apart.
            rotary: tables for their positions, each (N, head_dim), or (B, 1, N, head_dim) where sequences differ.
            visible: what the N tokens may see.

        Returns:
            Hidden states before the final norm, (B, N, hidden_size): apply `norm` to the rows that are used.
        """
        for layer, block in enumerate(self.blocks):
            hidden = block(hidden, rotary, caches, layer, visible)
        return hidden
