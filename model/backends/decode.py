"""The decode pass: one token runs through the und tower and gives the logits of the next token."""

from typing import cast

import torch
from torch import Tensor

from model.backends.graphs import capture
from model.backends.kernels import one_token
from model.network.attention import Attention, Segment, Visibility
from model.network.cache import LayerCache
from model.network.layers import SwiGLU
from model.network.norms import RMSNorm
from model.network.operations import Operations, RowGroup, Span
from model.network.projection import QuantizedLinear, Rows
from model.network.rope import attention_rotary
from model.network.sensenova import SenseNovaU1
from model.network.transformer import Block
from model.parallel.collectives import TowerGroup
from model.parallel.tensor_parallel import block_reduction
from model.sampling.prefill import Prefix

MIN_POSITIONS = 4096
"""Positions in the first table of rotations. The table doubles when a text outgrows it."""
ONE_TOKEN = [Segment(1, causal=True)]


class DecodePass:
    """A pass of one token, which follows a prefix, with the kernels of `one_token`.

    With a graph, the first call compiles and captures the kernels and later calls replay them. Otherwise each call
    launches them, with the same results. One graph serves every prefix: it reads the token's embedding and the
    addresses of the KV cache from its own tensors, which each call fills.
    """

    def __init__(self, network: SenseNovaU1, group: TowerGroup | None = None, *, as_graph: bool) -> None:
        """
        Args:
            group: the ranks that share the und tower. Each of them launches, or captures, the same operations.
            as_graph: capture the pass. All weights must then stay at the same addresses.
        """
        self._as_graph = as_graph
        transformer, device, dtype = network.config.transformer, network.device, network.dtype
        self._network = network
        self._graph: torch.cuda.CUDAGraph | None = None
        self._cache = AddressedCache(transformer.layers, device)
        self._table = attention_rotary(torch.zeros(3, 0, device=device), transformer, dtype)

        def vector(size: int) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        self._rotary = vector(transformer.head_dim), vector(transformer.head_dim)
        self._hidden = vector(transformer.hidden_size)
        self._logits = self._next = vector(transformer.vocabulary)
        self._operations = DecodeOperations(network, self._cache, group)

    def __call__(self, prefix: Prefix, token: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backend.forward_token`."""
        with torch.cuda.device(self._network.device):
            return self._on_device(prefix, token)

    def _on_device(self, prefix: Prefix, token: Tensor) -> tuple[Tensor, Tensor]:
        position = prefix.next_position
        prefix.cache.room(0, 1)
        if position >= len(self._table[0]):
            self._extend_table(position)
            self._graph = None  # it contains the old table's address
        # Nothing here waits for the device, which may still run the previous token. The exception is an embedding that
        # is read from a file, which needs the token's number.
        embedding = self._network.embed_tokens(token.view(1))[0]
        self._hidden.copy_(embedding)
        self._cache.point_to(prefix, position)
        if self._graph is None:
            self._forward()  # also compiles the kernels
            if self._as_graph:
                self._graph = capture(self._forward)
                self._hidden.copy_(embedding)
        if self._graph is not None:
            self._graph.replay()
        # Copies, also of float32 logits: the next token is written to the same memory.
        return self._hidden.clone()[None, None], self._next.to(torch.float32, copy=True)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return `Backend.logits` of a prefix, given the hidden state of its last token, (1, 1, hidden_size)."""
        with torch.cuda.device(self._network.device):
            self._hidden.copy_(hidden[0, 0])
            return self._next_logits().to(torch.float32, copy=True)

    def _forward(self) -> None:
        for row, table in zip(self._rotary, self._table, strict=True):
            torch.index_select(table, 0, self._cache.position, out=row[None])
        span = Span(self._rotary, self._cache, 1, slice(1), 0, 1)
        group = RowGroup(self._hidden[None], [span])
        self._network.und.run_blocks([[group]], [self._cache], ONE_TOKEN, self._operations)
        self._next = self._next_logits()

    def _next_logits(self) -> Tensor:
        """Return the logits of the token after the hidden state, (vocabulary,)."""
        head, norm, first = self._network.lm_head, self._network.und.norm, 0
        for part in head.parts():
            rows = slice(first, first + len(part.weight))
            one_token.matrix_vector(part.weight, self._hidden, self._logits[rows], norm=(norm.weight, norm.eps))
            first = rows.stop
        return head.complete(self._logits)

    def _extend_table(self, position: int) -> None:
        count = max(MIN_POSITIONS, 2 * position)
        positions = torch.zeros(3, count, dtype=torch.long, device=self._network.device)
        positions[0] = torch.arange(count, device=positions.device)
        self._table = attention_rotary(positions, self._network.config.transformer, self._network.dtype)


class AddressedCache(LayerCache):
    """A KV cache that kernels find by addresses in a tensor, so that a CUDA graph can use a different one each time.

    Attributes:
        addresses: the addresses of each layer's keys and values, (layers, 2) int64.
        state: length, capacity and the token's position, (3,) int64.
    """

    def __init__(self, layers: int, device: torch.device) -> None:
        self.state = torch.zeros(3, dtype=torch.long, device=device)
        self.addresses = torch.zeros(layers, 2, dtype=torch.long, device=device)
        self._current: list[int] = []

    @property
    def position(self) -> Tensor:
        """The token's position, (1,) int64."""
        return self.state[2:]

    def point_to(self, prefix: Prefix, position: int) -> None:
        """Make kernels use the cache of a prefix, for a token at this position."""
        cache = prefix.cache
        addresses = cache.addresses()
        if addresses != self._current:
            self.addresses.copy_(torch.tensor(addresses).view(-1, 2))
            self._current = addresses
        self.state.copy_(torch.tensor([cache.length, cache.capacity, position]), non_blocking=True)

    def begin(self, layer: int) -> None:
        """Do nothing: every layer has memory of its own."""

    def _layer(self, layer: int) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("only kernels read this cache")


class DecodeOperations(Operations):
    """`Operations` for one token. The kernel of a matrix product includes its norm, its gate and its residual sum.

    Inputs of quantized weights stay in the model's dtype, because quantizing one row would save nothing.
    """

    def __init__(self, network: SenseNovaU1, cache: AddressedCache, group: TowerGroup | None) -> None:
        super().__init__(block_reduction(group))
        transformer, device, dtype = network.config.transformer, network.device, network.dtype
        self._cache = cache
        # The kernels add to the residual stream. If ranks sum it, only one of them contributes the old value.
        self._adds_residual = group is None or group.shard.index == 0
        self._norm: RMSNorm | None = None
        mlp = cast(SwiGLU, cast(Block, network.und.blocks[0]).mlp)
        self._projected = torch.zeros(
            (transformer.heads + 2 * transformer.kv_heads) * transformer.head_dim, dtype=dtype, device=device
        )
        self._attended = torch.zeros(transformer.heads * transformer.head_dim, dtype=dtype, device=device)
        self._inner = torch.zeros(mlp.down_proj.in_features, dtype=dtype, device=device)
        self._partial = one_token.partial_results(transformer.heads, transformer.head_dim, device)

    def norm(self, group: RowGroup, norm: RMSNorm, projection: QuantizedLinear | None) -> Rows:
        """Remember the norm for the next product, which computes it, and return the residual stream."""
        self._norm = norm
        return group.residual

    def project(self, projection: QuantizedLinear, rows: Rows) -> Tensor:
        """Norm and multiply."""
        return self._product(projection, rows, self._projected)

    def project_gated(self, projection: QuantizedLinear, rows: Rows, following: QuantizedLinear) -> Rows:
        """Norm, multiply and gate."""
        return self._product(projection, rows, self._inner, gated=True)

    def write_heads(self, attention: Attention, projected: Tensor, span: Span, layer: int) -> Tensor:
        """Do nothing: the kernel of `attend` also norms, rotates and writes."""
        return projected

    def attend(self, attention: Attention, queries: Tensor, span: Span, layer: int, visible: Visibility) -> Tensor:
        """Write the token's key and value, and return its attention."""
        norms = attention.q_norm.weight, attention.k_norm.weight
        one_token.attention(
            queries[0],
            norms,
            attention.q_norm.eps,
            span.rotary,
            self._cache.addresses,
            self._cache.state,
            layer,
            self._partial,
            self._attended,
        )
        return self._attended[None]

    def add_projected(self, group: RowGroup, projection: QuantizedLinear, rows: Rows) -> None:
        """Multiply and add, in the memory of the residual stream."""
        hidden = group.residual[0]
        self._product(projection, rows, hidden, residual=hidden if self._adds_residual else None)
        self.reduced(hidden)

    def _product(
        self,
        projection: QuantizedLinear,
        rows: Rows,
        out: Tensor,
        *,
        gated: bool = False,
        residual: Tensor | None = None,
    ) -> Tensor:
        assert isinstance(rows, Tensor)
        norm, self._norm = self._norm, None
        one_token.matrix_vector(
            projection.weight,
            rows[0],
            out,
            norm=None if norm is None else (norm.weight, norm.eps),
            gated=gated,
            residual=residual,
            scale=projection.scale,
        )
        return out[None]
