"""What a transformer block is made of besides attention: RMS norm, SwiGLU, and the mixture of SwiGLU experts."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.configuration import DenseMLP, SparseExperts

WHOLE_ROWS, SPLIT_ROWS = 4096, 1024
"""A SwiGLU takes up to so many rows whole, which a 2048×2048 picture has, and more of them in pieces: the widest
activation of the network, six times the hidden size, is not held for all tokens of a long prefix at once."""


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension: computed in float32, cast back, then scaled."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype) * self.weight


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)); `gate_up_proj` holds gate's rows, then up's."""

    def __init__(self, hidden_size: int, config: DenseMLP) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(tokens, hidden_size) → the same shape."""
        if x.shape[0] <= WHOLE_ROWS or torch.is_grad_enabled():  # training keeps all of it anyway
            return self._rows(x)
        return torch.cat([self._rows(rows) for rows in x.split(SPLIT_ROWS)])

    def _rows(self, x: Tensor) -> Tensor:
        return self.down_proj(gated(self.gate_up_proj(x)))


class SparseMoE(nn.Module):
    """Each token's `top_k` experts, weighted by the router's softmax (float32), renormalised over the chosen.

    `gate_up_proj` (experts, 2·intermediate, hidden) and `down_proj` (experts, hidden, intermediate) hold all
    experts, so that a checkpoint's many small tensors load into two large ones.
    """

    def __init__(self, hidden_size: int, config: SparseExperts) -> None:
        super().__init__()
        self.top_k, self.norm_topk_prob = config.top_k, config.norm_topk_prob
        self.router = nn.Linear(hidden_size, config.experts, bias=False)
        self.gate_up_proj = nn.Parameter(torch.empty(config.experts, 2 * config.intermediate_size, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(config.experts, hidden_size, config.intermediate_size))

    def forward(self, x: Tensor) -> Tensor:
        """(tokens, hidden_size) → the same shape."""
        probabilities = self.router(x).float().softmax(dim=-1)
        weights, chosen = probabilities.topk(self.top_k, dim=-1)
        if self.norm_topk_prob:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        weights = weights.to(x.dtype)
        result = torch.zeros_like(x)
        for expert in chosen.unique().tolist():
            row, rank = (chosen == expert).nonzero(as_tuple=True)
            inner = gated(F.linear(x[row], self.gate_up_proj[expert]))
            result.index_add_(0, row, F.linear(inner, self.down_proj[expert]) * weights[row, rank, None])
        return result


def gated(gate_up: Tensor) -> Tensor:
    """(…, 2·I), gate before up → silu(gate) · up, (…, I)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def build_mlp(hidden_size: int, config: DenseMLP | SparseExperts) -> SwiGLU | SparseMoE:
    """The MLP of one block."""
    if isinstance(config, SparseExperts):
        return SparseMoE(hidden_size, config)
    return SwiGLU(hidden_size, config)
