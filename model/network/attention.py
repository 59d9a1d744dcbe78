"""Attention of one tower: fused projections, two-part query/key norms, rotary positions, a shared cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.cache import LayerCache
from model.network.configuration import TransformerConfig
from model.network.norms import HeadNorm
from model.network.projection import Projection
from model.network.rope import Rotary, rotate_heads_

CAUSAL_ROWS = 256
"""Query rows of text that share one mask. The mask then has at most 256 booleans per key."""


@dataclass(frozen=True)
class Segment:
    """`count` neighbouring new tokens.

    Attributes:
        causal: the segment is text, in which a token sees itself and everything before it. Otherwise the segment is
            one image, whose tokens see each other and everything before the image.
    """

    count: int
    causal: bool


Visibility = Sequence[Segment] | Tensor
"""The tokens that new tokens may see: segments of one sequence; or, for a batch of different sequences, a mask
(B, 1, N, M) that is True where one of the N new tokens may see one of all M tokens."""


class Attention(nn.Module):
    """The projections before and after grouped-query attention. `attend` computes the attention between them.

    `qkv_proj` holds the rows of q_proj, k_proj and v_proj in this order.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.q_width = config.heads * config.head_dim
        self.kv_width = config.kv_heads * config.head_dim
        self.qkv_proj = Projection(config.hidden_size, self.q_width + 2 * self.kv_width)
        self.o_proj = Projection(self.q_width, config.hidden_size)
        self.q_norm = HeadNorm(config)
        self.k_norm = HeadNorm(config)

    def write_heads(self, projected: Tensor, rotary: Rotary, cache: LayerCache, layer: int) -> Tensor:
        """Write the new tokens' keys and values to the cache.

        Args:
            projected: from `qkv_proj`, (B, N, (heads + 2·kv_heads)·head_dim).

        Returns:
            Queries of the new tokens, (B, heads, N, head_dim).
        """
        parts = projected.split((self.q_width, self.kv_width, self.kv_width), dim=-1)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in parts)
        cache.write(layer, rotate_heads_(self.k_norm(k), rotary), v)
        return rotate_heads_(self.q_norm(q), rotary)


class AttentionKernel:
    """Attention of a run of query rows by PyTorch's fused function. `model.backends` chooses among a GPU's kernels."""

    def causal_rows(self, q: Tensor, segment: Segment) -> int:
        """Return the number of rows that `causal` computes, of a text at the very start of a sequence."""
        return 0

    def causal(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return causal attention of rows that have no prefix, without a mask; arguments are those of `__call__`."""
        return F.scaled_dot_product_attention(q, keys, values, is_causal=True, enable_gqa=True)

    def __call__(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Return attention of all rows over all keys that the mask allows.

        Args:
            q: (B, heads, N, head_dim). keys, values: (B, kv_heads, M, head_dim).
            mask: True where a row may see a key, broadcast to (B, heads, N, M). None: everywhere.

        Returns:
            (B, heads, N, head_dim)
        """
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=True)


def attend(q: Tensor, keys: Tensor, values: Tensor, visible: Visibility, kernel: AttentionKernel) -> Tensor:
    """Return attention of the last N positions over all M ≥ N of them, by a mask or segment by segment.

    Segments cover q's N rows in order. Each is computed on its own, so that the fused kernels run without a mask for
    images and with a narrow one for text, and nothing of size heads × N × M is stored.

    Args:
        q: (B, heads, N, head_dim). keys, values: (B, kv_heads, M, head_dim).

    Returns:
        (B, heads, N, head_dim)
    """
    if isinstance(visible, Tensor):
        return kernel(q, keys, values, visible)
    segments, seen = visible, keys.shape[2] - q.shape[2]
    if len(segments) == 1 and (segments[0].count == 1 or not segments[0].causal):
        return kernel(q, keys, values, None)
    # The heads of a token are neighbours in memory, so that joining them needs no copy.
    attended = torch.empty_like(q.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
    row = kernel.causal_rows(q, segments[0]) if seen == 0 and segments[0].causal else 0
    if row:
        attended[:, :, :row] = kernel.causal(q[:, :, :row], keys[:, :, :row], values[:, :, :row])
        segments = segments[1:]
    for count, causal in _runs(segments):
        rows, end = slice(row, row + count), seen + row + count
        mask = None
        if causal and count > 1:
            mask = torch.ones(count, end, dtype=torch.bool, device=q.device).tril(diagonal=end - count)
        attended[:, :, rows] = kernel(q[:, :, rows], keys[:, :, :end], values[:, :, :end], mask)
        row += count
    return attended


def _runs(segments: Sequence[Segment]) -> Iterator[tuple[int, bool]]:
    """Yield (count, causal) of the rows that one kernel call computes: an image, or a part of a text."""
    for segment in segments:
        step = CAUSAL_ROWS if segment.causal else segment.count
        for start in range(0, segment.count, step):
            yield min(step, segment.count - start), segment.causal
