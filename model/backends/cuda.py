"""The runtime for CUDA: towers of fused kernels, and both repeated passes as graphs."""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
import triton
from platformdirs import user_cache_path
from torch import Tensor

from model.backends.decode import DecodePass
from model.backends.graphs import CapturedPass
from model.backends.kernels import rows as row_kernels
from model.backends.kernels.heads import place_heads
from model.checkpoint.quantization import Fp8Linear
from model.memory.layer_buffers import is_settled, is_whole, settle
from model.memory.offload import StreamedHead
from model.network.attention import Attention, Segment, Visibility, attend
from model.network.cache import LayerCache
from model.network.layers import SPLIT_ROWS, WHOLE_ROWS, RMSNorm, SwiGLU
from model.network.rope import Rotary
from model.network.sensenova import SenseNovaU1
from model.network.transformer import Block, Tower, split_branches, together
from model.parallel.collectives import ProcessGroups, TowerGroup
from model.parallel.guidance_parallel import GuidanceGroup
from model.sampling.backend import Backend
from model.sampling.prefill import Prefix

Linear = torch.nn.Linear | Fp8Linear

HALVES_FROM_TOKENS = 3072
"""Tokens of a picture that are computed in two halves side by side (docs/performance.md)."""
ROWS_STEP = 128
"""A half is a multiple of this, a usual tile of rows in matrix products."""


class CudaBackend(Backend):
    """Runs a network by fused kernels, and its repeated passes as CUDA graphs.

    Which experts are needed is found out by the host, block by block: a pass through a tower that has them is neither
    captured nor ahead. Nor is a pass captured whose weights cannot all be there at once.
    """

    def __init__(self, network: SenseNovaU1, groups: ProcessGroups | None = None) -> None:
        super().__init__(network, GuidanceGroup(groups, network.config.transformer) if groups else None)
        cache = kernel_cache(network.device)
        if not cache.exists():
            self.note = "kernels are compiled for this GPU, which takes up to 10 s this once"
        # Triton's own place for what it has compiled is shared with every other program.
        os.environ.setdefault("TRITON_CACHE_DIR", str(cache))
        und, gen = (groups.und, groups.gen) if groups else (None, None)
        # An attribute of the instance, which hides the method.
        network.und.forward = FusedTower(network.und, und)  # type: ignore[method-assign]
        network.gen.forward = FusedTower(network.gen, gen)  # type: ignore[method-assign]
        self.denoises_async, self.decodes_async = _is_dense(network.gen), _is_dense(network.und)
        self._und_stays = is_whole(network.und) and not isinstance(network.lm_head, StreamedHead)
        self._token_pass = DecodePass(network, und, as_graph=self._und_stays) if self.decodes_async else None

    def captured(self, work: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if not self.denoises_async or not is_whole(self.network.gen):
            return work
        return CapturedPass(work, partial(settle, self.network.gen))

    def logits(self, prefix: Prefix) -> Tensor:
        return self._token_pass.logits(prefix.last_hidden) if self._token_pass else super().logits(prefix)

    def forward_token(self, prefix: Prefix, token: Tensor) -> tuple[Tensor, Tensor]:
        if self._token_pass is None:
            return super().forward_token(prefix, token)
        if self._und_stays:
            settle(self.network.und)
        return self._token_pass(prefix, token)


class FusedTower:
    """`Tower.forward` for inference on CUDA: what lies between two matrix products, or a product and attention, is one
    kernel each. Adding to the residual stream is part of the norm that follows.

    Each cache is one sequence's, and what is visible is told by segments. Where ranks share the tower, their summands
    are summed before they are added.
    """

    def __init__(self, tower: Tower, group: TowerGroup | None = None) -> None:
        self._summed: Callable[[Tensor], Tensor] = group.all_reduce if group and group.shard.count > 1 else _itself
        self._tower = tower
        self._blocks = tower.blocks

    def __call__(
        self,
        hidden: Tensor,
        rotaries: Sequence[Rotary],
        caches: Sequence[LayerCache],
        visible: Visibility,
        layers: range | None = None,
    ) -> Tensor:
        assert len(hidden) == len(caches) and not isinstance(visible, Tensor)
        with torch.cuda.device(hidden.device):  # where Triton launches
            return self._on_device(hidden, rotaries, caches, visible, layers)

    def _on_device(
        self,
        hidden: Tensor,
        rotaries: Sequence[Rotary],
        caches: Sequence[LayerCache],
        visible: Visibility,
        layers: range | None,
    ) -> Tensor:
        if self._goes_in_halves(hidden, caches, visible):
            return self._in_halves(hidden, rotaries, caches, layers)
        parts, count = split_branches(hidden, len(caches))
        residuals = [_Residual(part.flatten(0, 1).clone()) for part in parts]
        for layer, block in self._blocks.through(layers):
            for cache in caches:
                cache.begin(layer)
            for index, residual in enumerate(residuals):
                own = slice(index * count, (index + 1) * count)
                _advance(residual, block, layer, rotaries[own], caches[own], visible, self._summed)
        return torch.cat([residual.whole() for residual in residuals]).view_as(hidden)

    def _goes_in_halves(self, hidden: Tensor, caches: Sequence[LayerCache], visible: Visibility) -> bool:
        """Of a picture that is drawn: its tokens see one another and what is before them, in whatever order."""
        drawn = len(visible) == 1 and not cast(Segment, visible[0]).causal and caches[0].length > 0
        alone = not together(len(caches), hidden.shape[1], hidden.device) or len(caches) == 1
        return (
            drawn
            and alone
            and hidden.shape[1] >= HALVES_FROM_TOKENS
            and self._summed is _itself
            and _is_dense(self._tower)
        )

    def _in_halves(
        self, hidden: Tensor, rotaries: Sequence[Rotary], caches: Sequence[LayerCache], layers: range | None
    ) -> Tensor:
        """The two halves of a picture's tokens go side by side and meet only where keys and values are written: while
        the last programs of one half's kernel leave a part of the GPU idle, the other half's use it."""
        lanes = torch.cuda.current_stream(), _side_stream(torch.cuda.current_device())
        # What brings weights, and a cache whose layers share memory, know of one lane only: both lanes have to be done
        # with a layer before that one goes on to the next, and it has to be there before either begins.
        in_step = not is_settled(self._tower) or any(cache.layers_share for cache in caches)
        halves = []
        for rows in hidden.clone():
            cut = -(-len(rows) // 2 // ROWS_STEP) * ROWS_STEP
            halves.append((_Residual(rows[:cut]), _Residual(rows[cut:])))
        lanes[1].wait_stream(lanes[0])
        try:
            for layer, block in self._blocks.through(layers):
                for cache in caches:
                    cache.begin(layer)
                if in_step:
                    lanes[1].wait_stream(lanes[0])
                for both, rotary, cache in zip(halves, rotaries, caches, strict=True):
                    _advance_halves(both, lanes, block, layer, rotary, cache)
                if in_step:
                    lanes[0].wait_stream(lanes[1])
        finally:  # after an error, too: what the second lane still works on may be given back
            lanes[0].wait_stream(lanes[1])
        return torch.cat([half.whole() for both in halves for half in both]).view_as(hidden)


@functools.cache
def _side_stream(device: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@dataclass
class _Residual:
    """A residual stream, (rows, hidden_size), and what is still to be added to it."""

    rows: Tensor
    addend: Tensor | None = None

    def whole(self) -> Tensor:
        return self.rows if self.addend is None else self.rows + self.addend


def _advance_halves(
    halves: tuple[_Residual, _Residual],
    lanes: tuple[torch.cuda.Stream, torch.cuda.Stream],
    block: Block,
    layer: int,
    rotary: Rotary,
    cache: LayerCache,
) -> None:
    """`Block.forward` of one picture's tokens in two halves, each in its own lane."""
    attention, mlp = block.attention, cast(SwiGLU, block.mlp)
    total = sum(len(half.rows) for half in halves)
    queries, placed, first = [], [], 0
    for half, lane in zip(halves, lanes, strict=True):
        with torch.cuda.stream(lane):
            normed = _normed(block.attention_norm, half.rows, half.addend, attention.qkv_proj)
            projected = _product(attention.qkv_proj, normed)
            queries.append(_place_rows(attention, projected, rotary, cache, layer, first, total))
            placed.append(lane.record_event())
        first += len(half.rows)
    lanes[0].wait_event(placed[1])
    lanes[1].wait_event(placed[0])
    keys, values = cache.upto(layer, total)
    for half, lane, own in zip(halves, lanes, queries, strict=True):
        with torch.cuda.stream(lane):
            attended = attend(own, keys, values, [Segment(len(half.rows), causal=False)])
            addend = _product(attention.o_proj, attended.transpose(1, 2).flatten(2)[0])
            half.addend = _swiglu(mlp, _normed(block.mlp_norm, half.rows, addend, mlp.gate_up_proj))


def _advance(
    residual: _Residual,
    block: Block,
    layer: int,
    rotaries: Sequence[Rotary],
    caches: Sequence[LayerCache],
    visible: Visibility,
    summed: Callable[[Tensor], Tensor],
) -> None:
    """`Block.forward`; `summed` makes a sum over ranks of a rank's summand."""
    attention = block.attention
    normed = _normed(block.attention_norm, residual.rows, residual.addend, attention.qkv_proj)
    projected = _product(attention.qkv_proj, normed)
    parts = projected.view(len(caches), -1, projected.shape[-1]).split(1)
    attended = []
    for part, rotary, cache in zip(parts, rotaries, caches, strict=True):
        each = attend(*_place(attention, part, rotary, cache, layer), visible)
        attended.append(each.transpose(1, 2).flatten(2))
    joined = (attended[0] if len(attended) == 1 else torch.cat(attended)).flatten(0, 1)
    addend = summed(_product(attention.o_proj, joined))
    if isinstance(block.mlp, SwiGLU):
        addend = _swiglu(block.mlp, _normed(block.mlp_norm, residual.rows, addend, block.mlp.gate_up_proj))
    else:
        addend = block.mlp(_normed(block.mlp_norm, residual.rows, addend, None))
    residual.addend = summed(addend)


def _itself(addend: Tensor) -> Tensor:
    return addend


def _normed(norm: RMSNorm, rows: Tensor, addend: Tensor | None, taken_by: Linear | None) -> row_kernels.Rows:
    return row_kernels.normed(rows, addend, norm.weight, norm.eps, quantized=isinstance(taken_by, Fp8Linear))


def _swiglu(mlp: SwiGLU, x: row_kernels.Rows) -> Tensor:
    """`SwiGLU.forward`; many rows go in pieces, as they do there."""
    count = len(x[0] if isinstance(x, tuple) else x)
    step = count if count <= WHOLE_ROWS else SPLIT_ROWS
    eight_bit = isinstance(mlp.down_proj, Fp8Linear)
    results = []
    for start in range(0, count, step):
        piece = slice(start, start + step)
        part = (x[0][piece], x[1][piece]) if isinstance(x, tuple) else x[piece]
        inner = row_kernels.gated(_product(mlp.gate_up_proj, part), quantized=eight_bit)
        results.append(_product(mlp.down_proj, inner))
    return results[0] if len(results) == 1 else torch.cat(results)


def _product(linear: Linear, x: row_kernels.Rows) -> Tensor:
    if not isinstance(linear, Fp8Linear):
        assert isinstance(x, Tensor)
        return linear(x)
    return linear.multiply(*(x if isinstance(x, tuple) else row_kernels.quantized(x)), torch.bfloat16)


def _place(
    attention: Attention, projected: Tensor, rotary: Rotary, cache: LayerCache, layer: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`Attention.place` of one sequence as one kernel."""
    tokens = projected.shape[1]
    queries = _place_rows(attention, projected[0], rotary, cache, layer, 0, tokens)
    return queries, *cache.upto(layer, tokens)


def _place_rows(
    attention: Attention, projected: Tensor, rotary: Rotary, cache: LayerCache, layer: int, first: int, total: int
) -> Tensor:
    """Put keys and values of some of a sequence's `total` new tokens, from `first` on, into the cache; returns their
    queries, (1, heads, rows, head_dim)."""
    own = slice(first, first + len(projected))
    queries = projected.new_empty(len(projected), attention.q_width // attention.head_dim, attention.head_dim)
    keys, values = cache.room(layer, total)
    norms = attention.q_norm.weight, attention.k_norm.weight
    tables = rotary[0][own], rotary[1][own]
    place_heads(projected, norms, attention.q_norm.eps, tables, queries, keys[0][:, own], values[0][:, own])
    return queries.transpose(0, 1)[None]


def kernel_cache(device: torch.device) -> Path:
    """Where kernels compiled for a GPU are kept between processes, unless TRITON_CACHE_DIR says otherwise; the first
    runtime of a process sets it, for all of the process."""
    if "TRITON_CACHE_DIR" in os.environ:
        return Path(os.environ["TRITON_CACHE_DIR"])
    major, minor = torch.cuda.get_device_capability(device)
    return user_cache_path("sensenova") / "kernels" / f"triton-{triton.__version__}-sm{major}{minor}"


def _is_dense(tower: Tower) -> bool:
    return isinstance(cast(Sequence[Block], tower.blocks)[0].mlp, SwiGLU)
