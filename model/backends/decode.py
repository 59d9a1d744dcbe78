"""The pass that text is written with: one token through the und tower, and the logits of the next one."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from model.backends.graphs import capture
from model.backends.kernels import one_token
from model.checkpoint.quantization import Fp8Linear
from model.memory.offload import StreamedHead
from model.network.layers import SwiGLU
from model.network.rope import attention_rotary
from model.network.sensenova import SenseNovaU1
from model.network.transformer import Block
from model.parallel.collectives import TowerGroup
from model.parallel.tensor_parallel import SplitHead
from model.sampling.prefill import Prefix

LEAST_POSITIONS = 4096
"""Of the table of rotations, which doubles when a text gets longer."""


class DecodePass:
    """Reads one token behind a prefix, by the kernels of `one_token`. As a graph the first call compiles and captures,
    others replay; otherwise each call launches them, and the numbers are the same.

    One graph serves every prefix: it finds the token's embedding and the cache where its own tensors say, which each
    call fills. Eight-bit weights are multiplied with inputs as they are, not with eight-bit ones, which would save
    nothing here.
    """

    def __init__(self, network: SenseNovaU1, group: TowerGroup | None = None, *, as_graph: bool) -> None:
        """
        Args:
            group: the ranks that share the und tower; every one of them launches, or captures, the same operations.
            as_graph: capture the pass, whose weights all have to stay where they are in the device's memory.
        """
        self._as_graph = as_graph
        self._group = group if group is not None and group.shard.count > 1 else None
        # The kernels add to the residual stream: of what the ranks sum, one has it in.
        self._adds = self._group is None or self._group.shard.index == 0
        transformer, device, dtype = network.config.transformer, network.device, network.dtype
        self._network = network
        self._blocks = cast(Sequence[Block], network.und.blocks)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._state = torch.zeros(3, dtype=torch.long, device=device)  # length, capacity, position
        self._caches = torch.zeros(transformer.layers, 2, dtype=torch.long, device=device)
        self._addresses: list[int] = []
        self._table = attention_rotary(torch.zeros(3, 0, device=device), transformer, dtype)

        def vector(size: int) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        self._rotary = vector(transformer.head_dim), vector(transformer.head_dim)
        self._hidden = vector(transformer.hidden_size)
        self._projected = vector((transformer.heads + 2 * transformer.kv_heads) * transformer.head_dim)
        self._attended = vector(transformer.heads * transformer.head_dim)
        self._inner = vector(cast(SwiGLU, self._blocks[0].mlp).down_proj.in_features)
        self._logits = self._next = vector(transformer.vocabulary)
        self._partial = one_token.partial_results(transformer.heads, transformer.head_dim, device)

    def __call__(self, prefix: Prefix, token: Tensor) -> tuple[Tensor, Tensor]:
        """As `Backend.forward_token`."""
        with torch.cuda.device(self._network.device):
            return self._on_device(prefix, token)

    def _on_device(self, prefix: Prefix, token: Tensor) -> tuple[Tensor, Tensor]:
        cache, position = prefix.cache, prefix.next_position
        cache.room(0, 1)
        addresses = cache.addresses()
        if addresses != self._addresses:
            self._caches.copy_(torch.tensor(addresses).view(-1, 2))
            self._addresses = addresses
        if position >= len(self._table[0]):
            self._extend_table(position)
            self._graph = None  # it has the old table's address
        # Nothing here waits for the device, which may still be at the token before; but an embedding that is read from
        # a file has to know the token.
        embedding = self._network.embed_tokens(token.view(1))[0]
        self._hidden.copy_(embedding)
        self._state.copy_(torch.tensor([cache.length, cache.capacity, position]), non_blocking=True)
        if self._graph is None:
            self._read()  # and compiles the kernels
            if self._as_graph:
                self._graph = capture(self._read)
                self._hidden.copy_(embedding)
        if self._graph is not None:
            self._graph.replay()
        # Copies, float32 or not: the next token is written to the same memory.
        return self._hidden.clone()[None, None], self._next.to(torch.float32, copy=True)

    def logits(self, hidden: Tensor) -> Tensor:
        """As `Backend.logits`, of the hidden state of a prefix's last token, (1, 1, hidden_size)."""
        with torch.cuda.device(self._network.device):
            self._hidden.copy_(hidden[0, 0])
            return self._choose().to(torch.float32, copy=True)

    def _read(self) -> None:
        hidden, eps = self._hidden, self._network.config.transformer.rms_norm_eps
        for row, table in zip(self._rotary, self._table, strict=True):
            torch.index_select(table, 0, self._state[2:], out=row[None])
        for layer, block in enumerate(self._blocks):
            attention, mlp = block.attention, cast(SwiGLU, block.mlp)
            _apply(attention.qkv_proj, hidden, self._projected, norm=(block.attention_norm.weight, eps))
            one_token.attention(
                self._projected,
                (attention.q_norm.weight, attention.k_norm.weight),
                eps,
                self._rotary,
                self._caches,
                self._state,
                layer,
                self._partial,
                self._attended,
            )
            self._add(attention.o_proj, self._attended)
            _apply(mlp.gate_up_proj, hidden, self._inner, norm=(block.mlp_norm.weight, eps), gated=True)
            self._add(mlp.down_proj, self._inner)
        self._next = self._choose()

    def _choose(self) -> Tensor:
        """Logits of what follows the hidden state, (vocabulary,)."""
        network, eps = self._network, self._network.config.transformer.rms_norm_eps
        head, first = network.lm_head, 0
        for part in head.pieces if isinstance(head, StreamedHead) else [head]:
            rows = slice(first, first + len(cast(Tensor, part.weight)))
            _apply(cast(nn.Linear, part), self._hidden, self._logits[rows], norm=(network.und.norm.weight, eps))
            first = rows.stop
        return self._logits if self._group is None else cast(SplitHead, head).joined(self._logits)

    def _add(self, linear: nn.Linear | Fp8Linear, vector: Tensor) -> None:
        _apply(linear, vector, self._hidden, residual=self._hidden if self._adds else None)
        if self._group is not None:
            self._group.all_reduce(self._hidden)

    def _extend_table(self, position: int) -> None:
        count = max(LEAST_POSITIONS, 2 * position)
        positions = torch.zeros(3, count, dtype=torch.long, device=self._network.device)
        positions[0] = torch.arange(count, device=positions.device)
        self._table = attention_rotary(positions, self._network.config.transformer, self._network.dtype)


def _apply(
    linear: nn.Linear | Fp8Linear,
    vector: Tensor,
    out: Tensor,
    *,
    norm: tuple[Tensor, float] | None = None,
    gated: bool = False,
    residual: Tensor | None = None,
) -> None:
    scale = linear.scale if isinstance(linear, Fp8Linear) else None
    one_token.matrix_vector(linear.weight, vector, out, norm=norm, gated=gated, residual=residual, scale=scale)
