"""The operations of a transformer block, in plain PyTorch. They define the numbers that every backend must reproduce.

`model.network.transformer.Block` calls them in order. A backend subclasses `Operations` to fuse some of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.network.attention import Attention, AttentionKernel, Visibility, attend
from model.network.cache import LayerCache
from model.network.configuration import TransformerConfig
from model.network.experts import Experts
from model.network.norms import RMSNorm
from model.network.projection import QuantizedLinear, Rows, gated
from model.network.rope import Rotary

EXPERT_ROWS = 4096
"""Rows that go through experts at once: those of a 2048×2048 picture. Each row has `top_k` copies, which need the most
memory in a pass."""


@dataclass(frozen=True)
class Span:
    """New tokens of the sequences in one cache, as rows of a row group.

    Attributes:
        rotary: tables for the positions of these tokens.
        cache: keys and values of the sequences.
        sequences: number of sequences. Each has the same number of rows, one sequence after another.
        rows: the span's rows within its group.
        first: index of the first row among the new tokens of its sequence.
        total: new tokens of each sequence. A span covers all of them, unless a backend splits a sequence.
    """

    rotary: Rotary
    cache: LayerCache
    sequences: int
    rows: slice
    first: int
    total: int


@dataclass
class RowGroup:
    """Token rows that go through the matrix products together.

    Attributes:
        residual: the residual stream, (rows, hidden_size).
        spans: the sequences that the rows belong to.
        update: a pending update, which a backend will add to the residual stream, (rows, hidden_size), or None.
        lane: a context for the group's work, such as a CUDA stream, so that a backend can run groups side by side.
    """

    residual: Tensor
    spans: Sequence[Span]
    update: Tensor | None = None
    lane: AbstractContextManager[object] = field(default_factory=nullcontext)

    def result(self) -> Tensor:
        """Return the residual stream with the pending update added."""
        return self.residual if self.update is None else self.residual + self.update


class Operations:
    """The operations of one tower's blocks.

    Attributes:
        attention_kernel: computes attention of a run of rows.
        batch_rows: up to this number of rows, branches go through the matrix products as one batch. 0: each on its own.
    """

    attention_kernel = AttentionKernel()
    batch_rows = 0

    def __init__(self, all_reduce: Callable[[Tensor], Tensor] | None = None) -> None:
        """
        Args:
            all_reduce: sums a tensor over the ranks that share the tower. None: this process has all of it.
        """
        self._all_reduce = all_reduce

    def run_together(self, branches: int, tokens: int) -> bool:
        """Return whether branches of `tokens` tokens each go through the matrix products as one batch."""
        return branches == 1 or branches * tokens <= self.batch_rows

    def split_branches(self, hidden: Tensor, branches: int) -> list[Tensor]:
        """Split (B, N, …) of all branches into the batches of `run_together`."""
        return [hidden] if self.run_together(branches, hidden.shape[1]) else list(hidden.chunk(branches))

    def kernel_name(self, config: TransformerConfig, device: torch.device, dtype: torch.dtype) -> str:
        """Return the name of the kernel that computes a picture's attention."""
        return f"PyTorch's {device.type} kernel"

    def row_groups(
        self, hidden: Tensor, rotaries: Sequence[Rotary], caches: Sequence[LayerCache], visible: Visibility
    ) -> list[list[RowGroup]]:
        """Split the input of a tower into batches, which run one after another.

        Args:
            hidden, rotaries, caches, visible: as for `Tower.forward`.

        Returns:
            Batches of row groups. The groups of one batch hold rows of the same sequences; this class makes one group.
        """
        tokens, sequences = hidden.shape[1], hidden.shape[0] // len(caches)
        batches: list[list[RowGroup]] = []
        for part in self.split_branches(hidden, len(caches)):
            own = slice(len(batches), len(batches) + 1) if len(part) < len(hidden) else slice(None)
            rows = sequences * tokens
            spans = [
                Span(rotary, cache, sequences, slice(index * rows, (index + 1) * rows), 0, tokens)
                for index, (rotary, cache) in enumerate(zip(rotaries[own], caches[own], strict=True))
            ]
            batches.append([RowGroup(part.flatten(0, 1), spans)])
        return batches

    @contextmanager
    def running(self, batches: Sequence[Sequence[RowGroup]], in_step: bool) -> Iterator[None]:
        """Enclose a pass through the layers.

        Args:
            in_step: whether every row group must finish a layer before the next layer begins.
        """
        yield

    @contextmanager
    def running_layer(self) -> Iterator[None]:
        """Enclose one layer of a pass."""
        yield

    def wait_for_keys(self, groups: Sequence[RowGroup]) -> None:
        """Make each group of a batch wait for the keys and values that the others write."""

    def norm(self, group: RowGroup, norm: RMSNorm, projection: QuantizedLinear | None) -> Rows:
        """Return the norm of the residual stream, in the form that `projection` takes (None: the model's dtype)."""
        return norm(group.residual)

    def project(self, projection: QuantizedLinear, rows: Rows) -> Tensor:
        """(N, in) → (N, out)."""
        assert isinstance(rows, Tensor)
        return projection(rows)

    def project_gated(self, projection: QuantizedLinear, rows: Rows, following: QuantizedLinear) -> Rows:
        """Multiply with `[gate; up]` and return silu(gate) · up, in the form that the `following` projection takes."""
        return gated(self.project(projection, rows))

    def write_heads(self, attention: Attention, projected: Tensor, span: Span, layer: int) -> Tensor:
        """Norm and rotate queries and keys, and write keys and values to the cache.

        Args:
            projected: the span's rows of `qkv_proj`'s result.

        Returns:
            The span's queries, for `attend`.
        """
        return attention.write_heads(projected.unflatten(0, (span.sequences, -1)), span.rotary, span.cache, layer)

    def attend(self, attention: Attention, queries: Tensor, span: Span, layer: int, visible: Visibility) -> Tensor:
        """Return the attention of a span's queries over its cache, (rows, heads · head_dim)."""
        keys, values = span.cache.upto(layer, span.total)
        attended = attend(queries, keys, values, visible, self.attention_kernel)
        return attended.transpose(1, 2).flatten(2).flatten(0, 1)

    def add_projected(self, group: RowGroup, projection: QuantizedLinear, rows: Rows) -> None:
        """Add the product to the residual stream, summed over the ranks that share the tower."""
        self.add(group, self.project(projection, rows))

    def add_experts(self, group: RowGroup, experts: Experts, rows: Rows) -> None:
        """Add the experts of the normed rows to the residual stream, summed over the ranks that share the tower. At
        most `EXPERT_ROWS` rows run at once."""
        assert isinstance(rows, Tensor)
        results = []
        for part in rows.split(EXPERT_ROWS):  # no comprehension, as in `Block`
            results.append(self.run_experts(experts, part))
        self.add(group, join_rows(results))

    def run_experts(self, experts: Experts, rows: Tensor) -> Tensor:
        """Return the weighted sum of each row's experts, (N, hidden_size) → the same shape."""
        return experts.grouped(rows)

    def add(self, group: RowGroup, update: Tensor) -> None:
        """Add an update to the residual stream, summed over the ranks that share the tower."""
        group.residual = group.residual + self.reduced(update)

    def reduced(self, update: Tensor) -> Tensor:
        """Return the sum of an update over the ranks that share the tower."""
        return update if self._all_reduce is None else self._all_reduce(update)


def join_rows(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate rows. A single part is returned as it is, without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
