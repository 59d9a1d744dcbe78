"""RMS norms: over a whole hidden state, and over the two halves of a head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.configuration import TransformerConfig


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension: computed in float32, cast back, then scaled."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → the same shape."""
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype) * self.weight


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
