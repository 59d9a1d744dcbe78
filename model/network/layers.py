"""The two kinds of MLP in a transformer block: SwiGLU, and the mixture of SwiGLU experts."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.configuration import DenseMLP, SparseExperts
from model.network.norms import RMSNorm
from model.network.operations import Operations, RowGroup, gated
from model.network.projection import Projection, QuantizedLinear, Rows

WHOLE_ROWS, SPLIT_ROWS = 4096, 1024
"""A SwiGLU computes up to 4096 rows at once, the rows of a 2048×2048 picture, and more rows in parts of 1024. The inner
activation is the widest of the network, six times the hidden size; that of a whole long prefix would not fit."""


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)). `gate_up_proj` holds gate's rows, then up's."""

    def __init__(self, hidden_size: int, config: DenseMLP) -> None:
        super().__init__()
        self.gate_up_proj = Projection(hidden_size, 2 * config.intermediate_size)
        self.down_proj = Projection(config.intermediate_size, hidden_size)

    def projections(self) -> Iterator[QuantizedLinear]:
        """Yield the matrix products that quantization can replace."""
        yield from (self.gate_up_proj, self.down_proj)

    def forward(self, group: RowGroup, norm: RMSNorm, operations: Operations) -> None:
        """Add the MLP of the normed rows to the residual stream."""
        x = operations.norm(group, norm, self.gate_up_proj)
        if len(x) <= WHOLE_ROWS or torch.is_grad_enabled():  # training keeps every activation anyway
            inner = operations.project_gated(self.gate_up_proj, x, self.down_proj)
            operations.add_projected(group, self.down_proj, inner)
        else:
            operations.add(group, self._run_parts(x, operations))

    def _run_parts(self, x: Rows, operations: Operations) -> Tensor:
        """Return the MLP of many rows, which runs over `SPLIT_ROWS` at a time."""
        results = []
        for part in x.split(SPLIT_ROWS):
            inner = operations.project_gated(self.gate_up_proj, part, self.down_proj)
            results.append(operations.project(self.down_proj, inner))
        return torch.cat(results)


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

    def projections(self) -> Iterator[QuantizedLinear]:
        """Yield nothing: experts stay in the model's dtype."""
        yield from ()

    def forward(self, group: RowGroup, norm: RMSNorm, operations: Operations) -> None:
        """Add the MLP of the normed rows to the residual stream."""
        x = operations.norm(group, norm, None)
        assert isinstance(x, Tensor)
        operations.add(group, self.experts(x))

    def experts(self, x: Tensor) -> Tensor:
        """Return the weighted sum of each token's experts: (tokens, hidden_size) → the same shape."""
        probabilities = self.router(x).float().softmax(dim=-1)
        weights, chosen = probabilities.topk(self.top_k, dim=-1)
        if self.norm_topk_prob:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        weights = weights.to(x.dtype)
        result = torch.zeros_like(x)
        for expert in chosen.unique().tolist():
            row, choice = (chosen == expert).nonzero(as_tuple=True)
            inner = gated(F.linear(x[row], self.gate_up_proj[expert]))
            result.index_add_(0, row, F.linear(inner, self.down_proj[expert]) * weights[row, choice, None])
        return result


def build_mlp(hidden_size: int, config: DenseMLP | SparseExperts) -> SwiGLU | SparseMoE:
    """Build the MLP of one block."""
    if isinstance(config, SparseExperts):
        return SparseMoE(hidden_size, config)
    return SwiGLU(hidden_size, config)
