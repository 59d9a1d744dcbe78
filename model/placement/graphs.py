"""CUDA graphs: a pass through a tower, hundreds of kernels, launched as one."""

from collections.abc import Callable, Hashable, Sequence
from functools import cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from model.kernels import one_token
from model.network.layers import SwiGLU
from model.network.rope import attention_rotary
from model.network.sensenova import SenseNovaU1
from model.network.transformer import Block
from model.placement.groups import TowerGroup
from model.placement.tensor_parallel import SplitHead
from model.sampling.prefix import Prefix
from model.weights.quantize import Fp8Linear

LEAST_POSITIONS = 4096
"""Of the table of rotations, which doubles when a text gets longer."""


def capture(work: Callable[[], None], pool: Any = None) -> torch.cuda.CUDAGraph:
    """The kernels that `work` launches on the current device. It must have run before: what is compiled or chosen at
    first cannot be then."""
    graph = torch.cuda.CUDAGraph()
    here, aside = torch.cuda.current_stream(), _capture_stream(torch.cuda.current_device())
    # The outer context takes us back to the current stream also where the inner one fails at its end. Other threads
    # may use the device meanwhile.
    with (
        torch.cuda.stream(here),
        torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"),
    ):
        work()
    return graph


@cache
def _capture_stream(device: int) -> torch.cuda.Stream:
    """One for each device: PyTorch's own is one for all, and for every stream it keeps memory for cuBLAS."""
    return torch.cuda.Stream(device)


class RepeatedPass:
    """A pass that is run over and over with other numbers in tensors of the same shapes.

    Under each key, which tells the shapes, it first runs as it is, from the second time on as a graph. What else it
    reads must stay where it is in memory for as long; `settle`, called before a graph is captured or runs, sees to it
    that it is there.
    """

    def __init__(self, work: Callable[..., Tensor], settle: Callable[[], None]) -> None:
        self._work = work
        self._settle = settle
        self._warm: set[Hashable] = set()
        self._inputs: dict[Hashable, tuple[Tensor, ...]] = {}  # by their shapes: one for all keys that share them
        self._results: dict[Hashable, Tensor] = {}
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, key: Hashable, *inputs: Tensor) -> Tensor:
        with torch.cuda.device(inputs[0].device):
            return self._on_device(key, *inputs)

    def _on_device(self, key: Hashable, *inputs: Tensor) -> Tensor:
        if key not in self._warm:
            self._warm.add(key)
            return self._work(key, *inputs)
        self._settle()
        shapes = tuple(given.shape for given in inputs)
        if shapes not in self._inputs:
            self._inputs[shapes] = tuple(map(torch.empty_like, inputs))
        for static, given in zip(self._inputs[shapes], inputs, strict=True):
            static.copy_(given)
        if key not in self._graphs:
            self._graphs[key] = capture(partial(self._run, key, self._inputs[shapes]), self._pool)
        self._graphs[key].replay()
        return self._results[key].clone()  # the next run writes to the same memory

    def _run(self, key: Hashable, inputs: tuple[Tensor, ...]) -> None:
        self._results[key] = self._work(key, *inputs)


class TokenGraph:
    """Reads one token behind a prefix. The first call compiles and captures; others replay.

    One graph serves every prefix: it finds the token's embedding and the cache where its own tensors say, which each
    call fills. Eight-bit weights are multiplied with inputs as they are, not with eight-bit ones, which would save
    nothing here.
    """

    def __init__(self, network: SenseNovaU1, group: TowerGroup | None = None) -> None:
        """group: the ranks that share the und tower; every one of them captures the same operations."""
        self._group = group if group is not None and group.share.count > 1 else None
        # The kernels add to the residual stream: of what the ranks sum, one has it in.
        self._adds = self._group is None or self._group.share.index == 0
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
        self._logits = self._joined = vector(transformer.vocabulary)
        self._partial = one_token.partial_results(transformer.heads, transformer.head_dim, device)

    def __call__(self, prefix: Prefix, token: Tensor) -> tuple[Tensor, Tensor]:
        """As `Runtime.read_token`."""
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
            self._read()  # compiles the kernels
            self._graph = capture(self._read)
            self._hidden.copy_(embedding)
        self._graph.replay()
        # Copies, float32 or not: the next token is written to the same memory.
        return self._hidden.clone()[None, None], self._joined.to(torch.float32, copy=True)

    def _read(self) -> None:
        network, eps = self._network, self._network.config.transformer.rms_norm_eps
        hidden = self._hidden
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
        _apply(network.lm_head, hidden, self._logits, norm=(network.und.norm.weight, eps))
        if self._group is not None:
            self._joined = cast(SplitHead, network.lm_head).joined(self._logits)

    def _add(self, linear: nn.Linear | Fp8Linear, vector: Tensor) -> None:
        _apply(linear, vector, self._hidden, residual=self._hidden if self._adds else None)
        if self._group is not None:
            self._group.sum_(self._hidden)

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
