"""The experts of a mixture, which are SwiGLUs, and the routing of tokens to them (A3B)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.configuration import SparseExperts
from model.network.projection import QuantizedWeight, RowFormat, gated


class StackedLinear(QuantizedWeight, Protocol):
    """The interface of one projection of all experts."""

    def multiply_expert(self, expert: int, rows: Tensor) -> Tensor:
        """Multiply rows of the model's dtype with one expert, (N, in) → (N, out)."""


class StackedProjection(nn.Module):
    """One projection of all experts in the model's dtype. `StackedLinear` describes its attributes."""

    scale: Tensor | None = None
    input_format: RowFormat | None = None
    is_emulated = False

    def __init__(self, experts: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.experts, self.in_features, self.out_features = experts, in_features, out_features
        self.weight = nn.Parameter(torch.empty(experts, out_features, in_features))

    def multiply_expert(self, expert: int, rows: Tensor) -> Tensor:
        """See `StackedLinear.multiply_expert`."""
        return F.linear(rows, self.weight[expert])


@dataclass(frozen=True)
class Routing:
    """The experts of each token, and the order of rows in which each expert's rows follow one another.

    There is a row for each token and each of its choices. All tensors stay on the device: nothing here waits for it.

    Attributes:
        weights: of each token's experts, (tokens, top_k), in the model's dtype.
        tokens: the token of each sorted row, (tokens · top_k,), int64.
        places: the sorted row of each token's choices, (tokens, top_k), int64.
        ends: the end of each expert's rows, (experts,), int32.
    """

    weights: Tensor
    tokens: Tensor
    places: Tensor
    ends: Tensor

    @classmethod
    def of(cls, weights: Tensor, chosen: Tensor, experts: int) -> "Routing":
        """Sort rows by expert, and rows of the same expert by token.

        Args:
            weights: (tokens, top_k).
            chosen: the numbers of the experts, (tokens, top_k).
        """
        by_expert, order = chosen.flatten().to(torch.int16).sort(stable=True)
        numbers = torch.arange(experts, dtype=torch.int16, device=chosen.device)
        ends = torch.searchsorted(by_expert, numbers, right=True, out_int32=True)
        places = torch.empty_like(order)
        places.scatter_(0, order, torch.arange(len(order), device=order.device))
        return cls(weights, order // chosen.shape[1], places.view(chosen.shape), ends)

    def weighted_sum(self, rows: Tensor) -> Tensor:
        """Return each token's weighted sum: sorted rows (tokens · top_k, width) → (tokens, width).

        The sum is in float32, in the order of the token's choices, and is rounded once.
        """
        total = torch.zeros(len(self.places), rows.shape[1], dtype=torch.float32, device=rows.device)
        for choice in range(self.places.shape[1]):
            total.addcmul_(rows[self.places[:, choice]].float(), self.weights[:, choice, None].float())
        return total.to(rows.dtype)


class Experts(nn.Module):
    """Each token's `top_k` experts, weighted by the router's softmax (float32), renormalised over the chosen.

    `gate_up_proj` (experts, 2·intermediate, hidden) and `down_proj` (experts, hidden, intermediate) hold all
    experts, so that a checkpoint's many small tensors load into two large ones.
    """

    def __init__(self, hidden_size: int, config: SparseExperts) -> None:
        super().__init__()
        self.top_k, self.norm_topk_prob = config.top_k, config.norm_topk_prob
        self.router = nn.Linear(hidden_size, config.experts, bias=False)
        self.gate_up_proj: StackedLinear = StackedProjection(config.experts, hidden_size, 2 * config.intermediate_size)
        self.down_proj: StackedLinear = StackedProjection(config.experts, config.intermediate_size, hidden_size)

    def projections(self) -> Iterator[StackedLinear]:
        """Yield the matrix products that quantization can replace."""
        yield from (self.gate_up_proj, self.down_proj)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights of each token's experts, (tokens, top_k) in the dtype of x, and their numbers."""
        probabilities = self.router(x).float().softmax(dim=-1)
        weights, chosen = probabilities.topk(self.top_k, dim=-1)
        if self.norm_topk_prob:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights.to(x.dtype), chosen

    def sorted_routing(self, x: Tensor) -> Routing:
        """Return the routing of tokens (tokens, hidden_size)."""
        return Routing.of(*self.route(x), self.router.out_features)

    def grouped(self, x: Tensor) -> Tensor:
        """Return the weighted sum of each token's experts: (tokens, hidden_size) → the same shape.

        Each expert that has tokens runs once. The host waits for the device once, to learn their numbers.
        """
        routing = self.sorted_routing(x)
        rows = x[routing.tokens]
        first = 0
        for expert, end in enumerate(routing.ends.tolist()):
            if end > first:
                inner = gated(self.gate_up_proj.multiply_expert(expert, rows[first:end]))
                rows[first:end] = self.down_proj.multiply_expert(expert, inner)
            first = end
        return routing.weighted_sum(rows)

    def one_by_one(self, x: Tensor) -> Tensor:
        """Return what `grouped` does, as the reference implementation computes it: without sorting, one expert's
        tokens after another's. Tests and `benchmarks.experts` compare the other ways with this one."""
        weights, chosen = self.route(x)
        result = torch.zeros_like(x)
        for expert in chosen.unique().tolist():
            row, choice = (chosen == expert).nonzero(as_tuple=True)
            inner = gated(self.gate_up_proj.multiply_expert(expert, x[row]))
            result.index_add_(0, row, self.down_proj.multiply_expert(expert, inner) * weights[row, choice, None])
        return result
