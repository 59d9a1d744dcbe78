"""The decode pass: a token runs through the und tower and gives the logits of the next token."""

from functools import partial
from typing import cast

import torch
from torch import Tensor

from model.backends.graphs import capture
from model.backends.kernels import one_token, one_token_experts
from model.network.attention import Attention, Visibility
from model.network.cache import LayerCache
from model.network.configuration import SparseExperts
from model.network.experts import Experts, StackedLinear
from model.network.norms import RMSNorm
from model.network.operations import Operations, RowGroup, Span
from model.network.projection import QuantizedLinear, Rows
from model.network.rope import attention_rotary
from model.network.sensenova import SenseNovaU1
from model.parallel.collectives import TowerGroup
from model.parallel.tensor_parallel import block_reduction
from model.sampling.backend import ONE_TOKEN
from model.sampling.prefill import Prefix
from model.sampling.prompt_lookup import MOST_DRAFTED

MIN_POSITIONS = 4096
"""Positions in the first table of rotations. The table doubles when a text outgrows it."""


class DecodePass:
    """A pass of one token, which follows a prefix, or of a token and its draft, with the kernels of `one_token`.

    With a graph, the first call compiles and captures the kernels and later calls replay them. Otherwise each call
    launches them, with the same results. One graph serves every prefix: it reads the token's embedding and the
    addresses of the KV cache from its own tensors, which each call fills.

    Several tokens run through each layer one after another, so each gets the same bits as in a pass of its own. That
    takes as long as several passes, except for loading the weights.
    """

    def __init__(self, network: SenseNovaU1, group: TowerGroup | None = None, *, as_graph: bool) -> None:
        """
        Args:
            group: the ranks that share the und tower. Each of them launches, or captures, the same operations.
            as_graph: capture the pass, which then has one token. All weights must stay at the same addresses.
        """
        self._as_graph = as_graph
        transformer, device, dtype = network.config.transformer, network.device, network.dtype
        self._network = network
        self._graph: torch.cuda.CUDAGraph | None = None
        self._table = attention_rotary(torch.zeros(3, 0, device=device), transformer, dtype)
        most = 1 if as_graph else 1 + MOST_DRAFTED

        def rows(size: int) -> Tensor:
            return torch.zeros(most, size, dtype=dtype, device=device)

        self._rotary = rows(transformer.head_dim), rows(transformer.head_dim)
        self._hidden = rows(transformer.hidden_size)
        self._logits = rows(transformer.vocabulary)
        self._next = list(self._logits)
        self._states = torch.zeros(most, 3, dtype=torch.long, device=device)
        self._addresses = torch.zeros(transformer.layers, 2, dtype=torch.long, device=device)
        self._current_addresses: list[int] = []
        self._caches = [AddressedCache(self._addresses, state) for state in self._states]
        self._operations = DecodeOperations(network, group)

    def __call__(self, prefix: Prefix, tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Run tokens, (N,) int64, after a prefix that has room for them; return for each what `Backend.forward_token`
        does. N is 1, or up to 1 + `MOST_DRAFTED` without a graph."""
        with torch.cuda.device(self._network.device):
            return self._on_device(prefix, tokens)

    def _on_device(self, prefix: Prefix, tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
        position, count = prefix.next_position, len(tokens)
        prefix.cache.room(0, count)
        if position + count > len(self._table[0]):
            self._extend_table(position + count)
            self._graph = None  # it contains the old table's address
        # Nothing here waits for the device, which may still run the previous token. The exception is an embedding that
        # is read from a file, which needs the token's number.
        embedding = self._network.embed_tokens(tokens)
        self._hidden[:count] = embedding
        self._point_to(prefix, position, count)
        if self._graph is None:
            self._forward(count)  # also compiles the kernels
            if self._as_graph:
                self._graph = capture(partial(self._forward, count))
                self._hidden.copy_(embedding)
        if self._graph is not None:
            self._graph.replay()
        # Copies, also of float32 logits: the next token is written to the same memory.
        pairs = zip(self._hidden[:count], self._next, strict=True)
        return [(hidden.clone()[None, None], logits.to(torch.float32, copy=True)) for hidden, logits in pairs]

    def logits(self, hidden: Tensor) -> Tensor:
        """Return `Backend.logits` of a prefix, given the hidden state of its last token, (1, 1, hidden_size)."""
        with torch.cuda.device(self._network.device):
            self._hidden[0] = hidden[0, 0]
            return self._next_logits(1)[0].to(torch.float32, copy=True)

    def _forward(self, count: int) -> None:
        batches = []
        for index in range(count):
            cache, rotary = self._caches[index], (self._rotary[0][index], self._rotary[1][index])
            for row, table in zip(rotary, self._table, strict=True):
                torch.index_select(table, 0, cache.position, out=row[None])
            batches.append([RowGroup(self._hidden[index : index + 1], [Span(rotary, cache, 1, slice(1), 0, 1)])])
        self._network.und.run_blocks(batches, self._caches[:1], ONE_TOKEN, self._operations)
        self._next = self._next_logits(count)

    def _next_logits(self, count: int) -> list[Tensor]:
        """Return the logits of the tokens after the first hidden states, (vocabulary,) each."""
        head, norm, first = self._network.lm_head, self._network.und.norm, 0
        for part in head.parts():
            rows = slice(first, first + len(part.weight))
            for hidden, logits in zip(self._hidden[:count], self._logits[:count], strict=True):
                self._operations.multiply(part, hidden, logits[rows], norm=norm)
            first = rows.stop
        return [head.complete(logits) for logits in self._logits[:count]]

    def _point_to(self, prefix: Prefix, position: int, count: int) -> None:
        """Make kernels use the cache of a prefix, for tokens from this position on."""
        cache = prefix.cache
        addresses = cache.addresses()
        if addresses != self._current_addresses:
            self._addresses.copy_(torch.tensor(addresses).view(-1, 2))
            self._current_addresses = addresses
        states = [[cache.length + index, cache.capacity, position + index] for index in range(count)]
        self._states[:count].copy_(torch.tensor(states), non_blocking=True)

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

    def __init__(self, addresses: Tensor, state: Tensor) -> None:
        self.addresses, self.state = addresses, state

    @property
    def position(self) -> Tensor:
        """The token's position, (1,) int64."""
        return self.state[2:]

    def begin(self, layer: int) -> None:
        """Do nothing: every layer has memory of its own."""

    def _layer(self, layer: int) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("only kernels read this cache")


class DecodeOperations(Operations):
    """`Operations` for one token. The kernel of a matrix product includes its norm, its gate and its residual sum.

    Inputs of quantized weights stay in the model's dtype, because quantizing one row would save nothing.
    """

    def __init__(self, network: SenseNovaU1, group: TowerGroup | None) -> None:
        super().__init__(block_reduction(group))
        transformer, device, dtype = network.config.transformer, network.device, network.dtype
        # The kernels add to the residual stream. If ranks sum it, only one of them contributes the old value.
        self._adds_residual = group is None or group.shard.index == 0
        self._norm: RMSNorm | None = None
        self._projected = torch.zeros(
            (transformer.heads + 2 * transformer.kv_heads) * transformer.head_dim, dtype=dtype, device=device
        )
        self._attended = torch.zeros(transformer.heads * transformer.head_dim, dtype=dtype, device=device)
        mlp = network.config.transformer.und_mlp
        top_k = mlp.top_k if isinstance(mlp, SparseExperts) else 1
        self._inner = torch.zeros(top_k * mlp.intermediate_size, dtype=dtype, device=device)
        if isinstance(mlp, SparseExperts):
            self._router_logits = torch.zeros(mlp.experts, dtype=dtype, device=device)
            self._chosen = torch.zeros(top_k, dtype=torch.int32, device=device)
            self._expert_weights = torch.zeros(top_k, dtype=dtype, device=device)
        widths = transformer.hidden_size, self._attended.numel(), self._inner.numel()
        self._rotated = torch.zeros(max(widths), dtype=torch.float32, device=device)
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
        cache = cast(AddressedCache, span.cache)
        norms = attention.q_norm.weight, attention.k_norm.weight
        one_token.attention(
            queries[0],
            norms,
            attention.q_norm.eps,
            span.rotary,
            cache.addresses,
            cache.state,
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

    def add_experts(self, group: RowGroup, experts: Experts, rows: Rows) -> None:
        """Norm, route, multiply with the token's experts and add, in the memory of the residual stream."""
        assert self._norm is not None
        hidden, norm = group.residual[0], (self._norm.weight, self._norm.eps)
        self._norm = None
        gate_up, down = experts.gate_up_proj, experts.down_proj
        one_token.matrix_vector(experts.router.weight, hidden, self._router_logits, norm=norm)
        one_token_experts.choose_experts(
            self._router_logits, self._chosen, self._expert_weights, renormalised=experts.norm_topk_prob
        )
        vector, inner = self._rotate(gate_up, hidden, norm), self._inner.view(experts.top_k, -1)
        own_norm = norm if vector is hidden else None
        one_token_experts.gated_experts(gate_up.weight, vector, self._chosen, inner, norm=own_norm, scale=gate_up.scale)
        one_token_experts.add_experts(
            down.weight,
            self._rotate(down, self._inner, None).view(experts.top_k, -1),
            self._chosen,
            self._expert_weights,
            hidden,
            residual=hidden if self._adds_residual else None,
            scale=down.scale,
        )
        self.reduced(hidden)

    def _rotate(
        self, projection: QuantizedLinear | StackedLinear, vector: Tensor, norm: tuple[Tensor, float] | None
    ) -> Tensor:
        """Return the vector with the norm and the rotation of a rotated weight's input, else the vector itself."""
        row_format = projection.input_format
        if row_format is None or row_format.group == 1:
            return vector
        rotated = self._rotated[: vector.numel()]
        one_token.rotate_vector(vector, rotated, row_format.group, norm)
        return rotated

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
        self.multiply(projection, rows[0], out, norm=norm, gated=gated, residual=residual)
        return out[None]

    def multiply(
        self,
        projection: QuantizedLinear,
        vector: Tensor,
        out: Tensor,
        *,
        norm: RMSNorm | None = None,
        gated: bool = False,
        residual: Tensor | None = None,
    ) -> None:
        """Compute out = projection · vector; other arguments as for `one_token.matrix_vector`.

        If the weight is rotated, a kernel of its own applies the norm and the rotation first.
        """
        norm_arguments = None if norm is None else (norm.weight, norm.eps)
        given, vector = vector, self._rotate(projection, vector, norm_arguments)
        one_token.matrix_vector(
            projection.weight,
            vector,
            out,
            norm=norm_arguments if vector is given else None,
            gated=gated,
            residual=residual,
            scale=projection.scale,
        )
