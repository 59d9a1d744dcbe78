"""Attention of one tower: fused projections, two-part query/key norms, rotary positions, a shared cache."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.network.cache import LayerCache
from model.network.configuration import TransformerConfig
from model.network.rope import Rotary, rotate_heads_

CAUSAL_ROWS = 256
"""Query rows of text that share one mask: bounds it to 256 × N booleans however long the prefix is."""


@dataclass(frozen=True)
class Segment:
    """`count` neighbouring new tokens. A causal segment is text: each token sees what is before it and itself.
    Any other segment is one image: its tokens see what is before it and one another."""

    count: int
    causal: bool


Visibility = Sequence[Segment] | Tensor
"""What the new tokens may see: as segments of one sequence, or, for a batch of sequences that differ, as a mask
(B, 1, N, M), True where one of the N new tokens may look at one of the M tokens that are there with it."""


class HeadNorm(nn.Module):
    """RMS norm of a query or key head's two halves (t; h and w), each with its own weight: weight (2, head_dim/2)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.rms_norm_eps
        self.weight = nn.Parameter(torch.ones(2, config.head_dim // 2))

    def forward(self, x: Tensor) -> Tensor:
        """(…, head_dim) → the same shape."""
        halves = x.unflatten(-1, (2, -1))
        normed = F.rms_norm(halves.float(), halves.shape[-1:], eps=self.eps).to(x.dtype)
        return (normed * self.weight).flatten(-2)


class Attention(nn.Module):
    """The projections before and after grouped-query attention; `attend` is what lies between.

    `qkv_proj` holds the rows of q_proj, k_proj and v_proj in this order.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.q_width = config.heads * config.head_dim
        self.kv_width = config.kv_heads * config.head_dim
        self.qkv_proj = nn.Linear(config.hidden_size, self.q_width + 2 * self.kv_width, bias=False)
        self.o_proj = nn.Linear(self.q_width, config.hidden_size, bias=False)
        self.q_norm = HeadNorm(config)
        self.k_norm = HeadNorm(config)

    def place(self, projected: Tensor, rotary: Rotary, cache: LayerCache, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Leave the new tokens' keys and values in the cache.

        Args:
            projected: from `qkv_proj`, (B, N, (heads + 2·kv_heads)·head_dim).

        Returns:
            Queries of the new tokens (B, heads, N, head_dim), and keys and values of all, (B, kv_heads, M, head_dim).
        """
        parts = projected.split((self.q_width, self.kv_width, self.kv_width), dim=-1)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in parts)
        keys, values = cache.write(layer, rotate_heads_(self.k_norm(k), rotary), v)
        return rotate_heads_(self.q_norm(q), rotary), keys, values


KERNELS = {
    SDPBackend.CUDNN_ATTENTION: "cuDNN",
    SDPBackend.FLASH_ATTENTION: "FlashAttention",
    SDPBackend.EFFICIENT_ATTENTION: "PyTorch's memory-efficient kernel",
    SDPBackend.MATH: "PyTorch's plain kernel",
}
"""PyTorch's attention kernels for a picture's tokens, and their names, the fastest first; those that cannot be used are
passed over. On Hopper cuDNN's takes 0.6 of the time of FlashAttention 2, which PyTorch would choose
(docs/performance.md)."""
ONE_ROW = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Those for one query row. cuDNN splits the keys there, and the same numbers do not always give the same bytes; from
two rows on it does not split them."""


def fastest_kernels(device: torch.device) -> AbstractContextManager[None]:
    """Within it, `attend` chooses by `KERNELS` on a GPU."""
    return sdpa_kernel(list(KERNELS), set_priority=True) if device.type == "cuda" else nullcontext()


def kernel_name(config: TransformerConfig, device: torch.device, dtype: torch.dtype) -> str:
    """Which of `KERNELS` a picture's tokens take on a GPU; elsewhere PyTorch has one of its own."""
    if device.type != "cuda":
        return f"PyTorch's {device.type} kernel"
    q = torch.empty(1, config.heads, 128, config.head_dim, dtype=dtype, device=device)
    kv = torch.empty(1, config.kv_heads, 128, config.head_dim, dtype=dtype, device=device)
    parameters = torch.backends.cuda.SDPAParams(q, kv, kv, None, 0.0, False, True)
    usable = {
        SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.can_use_cudnn_attention,
        SDPBackend.FLASH_ATTENTION: torch.backends.cuda.can_use_flash_attention,
        SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.can_use_efficient_attention,
    }
    chosen = next((kernel for kernel in KERNELS if kernel in usable and usable[kernel](parameters)), SDPBackend.MATH)
    return KERNELS[chosen]


def attend(q: Tensor, keys: Tensor, values: Tensor, visible: Visibility) -> Tensor:
    """Attention of the last N positions over all M ≥ N of them; by a mask, or segment by segment.

    Segments cover q's N rows in order. Going through them one by one lets the fused kernels run without a mask
    for images, and with a narrow one for text: nothing of size heads × N × M is stored.

    Args:
        q: (B, heads, N, head_dim). keys, values: (B, kv_heads, M, head_dim).

    Returns:
        (B, heads, N, head_dim)
    """
    if isinstance(visible, Tensor):
        return _sdpa(q, keys, values, visible)
    segments, seen = visible, keys.shape[2] - q.shape[2]
    if len(segments) == 1 and (segments[0].count == 1 or not segments[0].causal):
        return _sdpa(q, keys, values, None)
    # A token's heads lie side by side, so that joining them is no copy.
    attended = torch.empty_like(q.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
    row = 0
    if q.device.type == "cuda" and seen == 0 and segments[0].causal and _groups_heads(q):
        # A text at the very start has a kernel of its own, which needs no mask.
        row = segments[0].count
        start = slice(0, row)
        attended[:, :, start] = F.scaled_dot_product_attention(
            q[:, :, start], keys[:, :, start], values[:, :, start], is_causal=True, enable_gqa=True
        )
        segments = segments[1:]
    for count, causal in _runs(segments):
        rows, end = slice(row, row + count), seen + row + count
        mask = None
        if causal and count > 1:
            mask = torch.ones(count, end, dtype=torch.bool, device=q.device).tril(diagonal=end - count)
        attended[:, :, rows] = _sdpa(q[:, :, rows], keys[:, :, :end], values[:, :, :end], mask)
        row += count
    return attended


def _runs(segments: Sequence[Segment]) -> Iterator[tuple[int, bool]]:
    """(count, causal) of the rows that go through a kernel together: an image, or part of a text."""
    for segment in segments:
        step = CAUSAL_ROWS if segment.causal else segment.count
        for start in range(0, segment.count, step):
            yield min(step, segment.count - start), segment.causal


def _sdpa(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """PyTorch's fused attention. Its own grouping of query heads only where a fused kernel has it: elsewhere (on a
    GPU in float32, with a mask, or older than Ampere) it would fall back to one that stores heads × N × M scores.
    There the query heads that share a key/value head become rows of one head, which gives the same numbers.
    """
    if q.device.type == "cpu" or (mask is None and _groups_heads(q)):
        one_row = q.device.type == "cuda" and q.shape[2] == 1
        with sdpa_kernel(ONE_ROW) if one_row else nullcontext():
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=True)
    batch, heads, rows, width = q.shape
    shared = heads // keys.shape[1]
    stacked = q.reshape(batch, keys.shape[1], shared * rows, width)
    if mask is not None:
        mask = torch.cat([mask] * shared, dim=-2)
    attended = F.scaled_dot_product_attention(stacked, keys, values, attn_mask=mask)
    return attended.reshape(batch, heads, rows, width)


def _groups_heads(q: Tensor) -> bool:
    """Whether a fused kernel of q's GPU knows grouped heads: FlashAttention does, from Ampere (8.0) on."""
    return q.device.type == "cuda" and q.dtype != torch.float32 and torch.cuda.get_device_capability(q.device) >= (8, 0)
