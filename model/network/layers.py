"""The MLP of a transformer block: SwiGLU, or a mixture of SwiGLU experts."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from model.network.configuration import DenseMLP, SparseExperts
from model.network.experts import Experts
from model.network.norms import RMSNorm
from model.network.operations import Operations, RowGroup
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


class SparseMoE(Experts):
    """The experts of a mixture as the MLP of a block."""

    def forward(self, group: RowGroup, norm: RMSNorm, operations: Operations) -> None:
        """Add the MLP of the normed rows to the residual stream."""
        operations.add_experts(group, self, operations.norm(group, norm, None))


def build_mlp(hidden_size: int, config: DenseMLP | SparseExperts) -> SwiGLU | SparseMoE:
    """Build the MLP of one block."""
    if isinstance(config, SparseExperts):
        return SparseMoE(hidden_size, config)
    return SwiGLU(hidden_size, config)
