"""Operations for any GPU: PyTorch's fused attention kernels, chosen by the device and the shape of the rows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.network.attention import AttentionKernel, Segment
from model.network.configuration import TransformerConfig
from model.network.operations import Operations, RowGroup

BATCH_ROWS = 4096
"""Rows that keep a GPU busy. One branch of a 2048×2048 picture has this number, so computing its branches as one batch
gains nothing (docs/performance.md)."""

KERNELS = {
    SDPBackend.CUDNN_ATTENTION: "cuDNN",
    SDPBackend.FLASH_ATTENTION: "FlashAttention",
    SDPBackend.EFFICIENT_ATTENTION: "PyTorch's memory-efficient kernel",
    SDPBackend.MATH: "PyTorch's plain kernel",
}
"""PyTorch's attention kernels for a picture's tokens and their names, fastest first. PyTorch skips a kernel that it
cannot use. On Hopper cuDNN's kernel takes 0.6 of the time of FlashAttention 2, which PyTorch would choose by itself
(docs/performance.md)."""
SCORE_BYTES = 4
"""Size of a stored attention score. PyTorch computes scores of half-precision inputs in float32."""
ONE_ROW = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Kernels for one query row. For one row cuDNN splits the keys, and equal inputs do not always give equal bytes. From
two rows on it does not split them."""


class GpuAttention(AttentionKernel):
    """Attention that never stores heads × N × M scores.

    If no fused kernel supports grouped heads (in float32, with a mask, or on a GPU older than Ampere), PyTorch uses a
    kernel that stores the scores. This class then makes the query heads that share a key/value head into rows of one
    head, which gives the same numbers.
    """

    def __init__(self, *, groups_heads: bool, largest_array: int | None = None) -> None:
        """
        Args:
            groups_heads: whether a fused kernel of the device supports grouped heads in half precision.
            largest_array: as in `DeviceKind`. Rows are then computed in blocks whose scores fit into one array: Apple's
                GPUs store the scores, and a larger array ends the process (pytorch/pytorch#149261).
        """
        self._groups_heads = groups_heads
        self._largest_array = largest_array

    def causal_rows(self, q: Tensor, segment: Segment) -> int:
        """Return all rows of the segment if a fused causal kernel supports grouped heads, else 0."""
        return segment.count if self._is_grouped(q) else 0

    def __call__(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """See `AttentionKernel.__call__`."""
        if mask is None and self._is_grouped(q):
            with sdpa_kernel(ONE_ROW) if q.shape[2] == 1 else nullcontext():
                return F.scaled_dot_product_attention(q, keys, values, enable_gqa=True)
        batch, heads, rows, width = q.shape
        shared = heads // keys.shape[1]
        stacked = q.reshape(batch, keys.shape[1], shared * rows, width)
        if mask is not None:
            mask = torch.cat([mask] * shared, dim=-2)
        step = block_rows(stacked.shape[2], batch * keys.shape[1] * keys.shape[2], self._largest_array)
        blocks = []
        for first in range(0, stacked.shape[2], step):
            block = slice(first, first + step)
            part = None if mask is None else mask[..., block, :]
            blocks.append(F.scaled_dot_product_attention(stacked[:, :, block], keys, values, attn_mask=part))
        attended = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=2)
        return attended.reshape(batch, heads, rows, width)

    def _is_grouped(self, q: Tensor) -> bool:
        return self._groups_heads and q.dtype != torch.float32


def block_rows(rows: int, scores_per_row: int, largest_array: int | None) -> int:
    """Return the number of query rows in a block, so that the scores of a block fit into one array.

    Blocks are equal, except for the last one, so that kernels see few different shapes.

    Args:
        rows: number of query rows.
        scores_per_row: scores of a row in all heads and batch entries, counted as float32.
        largest_array: bytes; None for any size.
    """
    if largest_array is None:
        return rows
    most = max(1, largest_array // (scores_per_row * SCORE_BYTES))
    return -(-rows // -(-rows // most))


class GpuOperations(Operations):
    """`Operations` with a GPU's attention kernels. Small branches go through the matrix products as one batch."""

    batch_rows = BATCH_ROWS

    def __init__(
        self,
        attention: GpuAttention,
        all_reduce: Callable[[Tensor], Tensor] | None = None,
        kernels: Sequence[SDPBackend] = (),
    ) -> None:
        """
        Args:
            all_reduce: as for `Operations`.
            kernels: PyTorch's attention kernels to try, in this order. Empty: PyTorch's own order.
        """
        super().__init__(all_reduce)
        self.attention_kernel = attention
        self._kernels = list(kernels)

    def kernel_name(self, config: TransformerConfig, device: torch.device, dtype: torch.dtype) -> str:
        """See `Operations.kernel_name`."""
        return kernel_name(config, device, dtype) if self._kernels else super().kernel_name(config, device, dtype)

    @contextmanager
    def running(self, batches: Sequence[Sequence[RowGroup]], in_step: bool) -> Iterator[None]:
        """Try attention kernels in the given order during the pass."""
        with sdpa_kernel(self._kernels, set_priority=True) if self._kernels else nullcontext():
            yield


def kernel_name(config: TransformerConfig, device: torch.device, dtype: torch.dtype) -> str:
    """Return the name of the kernel in `KERNELS` that a picture's tokens use on a CUDA device."""
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
