"""The backend for CUDA: fused kernels between the matrix products, and CUDA graphs for steps and tokens."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
import triton
from platformdirs import user_cache_path
from torch import Tensor
from torch.nn.attention import SDPBackend

from model.backends.decode import DecodePass
from model.backends.experts import run_experts
from model.backends.gpu import KERNELS, GpuAttention, GpuOperations
from model.backends.graphs import CapturedPass
from model.backends.kernels import rows as row_kernels
from model.backends.kernels.heads import place_heads
from model.backends.kernels.int8_product import int8_product
from model.network.attention import Attention, Segment, Visibility
from model.network.cache import LayerCache
from model.network.experts import Experts
from model.network.norms import RMSNorm
from model.network.operations import RowGroup, Span
from model.network.projection import QuantizedLinear, QuantizedRows, Rows
from model.network.rope import Rotary
from model.network.sensenova import SenseNovaU1
from model.parallel.collectives import ProcessGroups
from model.parallel.guidance_parallel import GuidanceGroup
from model.parallel.tensor_parallel import block_reduction
from model.sampling.backend import Backend
from model.sampling.prefill import Prefix

HALVES_FROM_TOKENS = 3072
"""A picture of at least this number of tokens is computed in two halves side by side, which saves 3 % of a step at
2048×2048 (docs/performance.md)."""
HALF_STEP = 128
"""The first half is a multiple of this, a usual tile of rows in matrix products."""


class CudaBackend(Backend):
    """A backend that runs a network with fused kernels, and repeated passes as CUDA graphs.

    A pass is not captured if the weights of its blocks do not fit on the device together. Text is then not written
    asynchronously.
    """

    def __init__(self, network: SenseNovaU1, groups: ProcessGroups | None = None) -> None:
        super().__init__(network, GuidanceGroup(groups, network.config.transformer) if groups else None)
        cache = kernel_cache(network.device)
        if not cache.exists():
            self.note = "the first run on this GPU compiles kernels, which takes up to 10 s"
        # Triton's default folder for compiled kernels is shared with every other program.
        os.environ.setdefault("TRITON_CACHE_DIR", str(cache))
        und, gen = (groups.und, groups.gen) if groups else (None, None)
        attention = GpuAttention(groups_heads=True)
        network.und.operations = FusedOperations(attention, block_reduction(und))
        network.gen.operations = FusedOperations(
            attention, block_reduction(gen), list(KERNELS), halves=network.gen.is_dense
        )
        self.denoises_async = True
        # Where weights are streamed, the host waits for them in every pass.
        self.decodes_async = not self.looks_up
        self._decode_pass = DecodePass(network, und, as_graph=not self.looks_up)

    def captured(self, work: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """See `Backend.captured`."""
        blocks = self.network.gen.blocks
        if not blocks.fit_together:
            return work
        return CapturedPass(work, blocks.load_all)

    def logits(self, prefix: Prefix) -> Tensor:
        """See `Backend.logits`."""
        return self._decode_pass.logits(prefix.last_hidden)

    def forward_token(self, prefix: Prefix, token: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backend.forward_token`."""
        if not self.looks_up:
            self.network.und.blocks.load_all()
            self.network.lm_head.load_all()
        return self._decode_pass(prefix, token.view(1))[0]

    def forward_tokens(self, prefix: Prefix, tokens: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """See `Backend.forward_tokens`."""
        return self._decode_pass(prefix, torch.tensor(list(tokens), device=self.network.device))


class FusedOperations(GpuOperations):
    """`Operations` with one kernel for everything between two matrix products, or a matrix product and attention.

    The norm kernel also adds the pending update to the residual stream, in place. Each cache holds one sequence.

    A large picture runs in two halves, which wait for each other only at the keys and values. When the last programs of
    one half's kernel leave a part of the GPU idle, the other half uses it. If layers share memory for weights or
    caches, both halves finish a layer before either begins the next.
    """

    def __init__(
        self,
        attention: GpuAttention,
        all_reduce: Callable[[Tensor], Tensor] | None = None,
        kernels: Sequence[SDPBackend] = (),
        *,
        halves: bool = False,
    ) -> None:
        """
        Args:
            attention, all_reduce, kernels: as for `GpuOperations`.
            halves: run large pictures in two halves; not for ranks that share a tower. Experts would be read twice.
        """
        super().__init__(attention, all_reduce, kernels)
        self._halves = halves and all_reduce is None
        self._lanes: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None
        self._in_step = False

    def row_groups(
        self, hidden: Tensor, rotaries: Sequence[Rotary], caches: Sequence[LayerCache], visible: Visibility
    ) -> list[list[RowGroup]]:
        """Split as `Operations` does, with residual streams that may be written to; a large picture in halves."""
        # The kernels would write past the end of a cache of several sequences.
        assert len(hidden) == len(caches) and not isinstance(visible, Tensor)
        batches = super().row_groups(hidden, rotaries, caches, visible)
        for groups in batches:
            groups[0].residual = groups[0].residual.clone()
        if not self._halves or not self._is_large_picture(hidden, caches, visible):
            return batches
        lanes = torch.cuda.current_stream(hidden.device), _side_stream(hidden.device)
        return [_halved(group, lanes) for (group,) in batches]

    def _is_large_picture(self, hidden: Tensor, caches: Sequence[LayerCache], visible: Visibility) -> bool:
        """Return whether the rows are those of a large picture after a prefix. All of them see the same tokens."""
        tokens, first = hidden.shape[1], cast(Segment, visible[0])
        is_picture = len(visible) == 1 and not first.causal and caches[0].length > 0
        is_alone = len(caches) == 1 or not self.run_together(len(caches), tokens)
        return is_picture and is_alone and tokens >= HALVES_FROM_TOKENS

    @contextmanager
    def running(self, batches: Sequence[Sequence[RowGroup]], in_step: bool) -> Iterator[None]:
        """Run the pass on the rows' device, which Triton needs, and wait for both halves at its end."""
        device = batches[0][0].residual.device
        with torch.cuda.device(device), super().running(batches, in_step):
            if len(batches[0]) == 1:
                yield
                return
            here, aside = self._lanes = torch.cuda.current_stream(), _side_stream(device)
            self._in_step = in_step
            aside.wait_stream(here)
            try:
                yield
            finally:  # also after an error, because memory that the second lane still uses may be freed
                here.wait_stream(aside)
                self._lanes = None

    @contextmanager
    def running_layer(self) -> Iterator[None]:
        """Keep both halves in the same layer if layers share memory."""
        if self._lanes is None or not self._in_step:
            yield
            return
        here, aside = self._lanes
        aside.wait_stream(here)  # until the layer is loaded, for which `here` waits already
        yield
        here.wait_stream(aside)

    def wait_for_keys(self, groups: Sequence[RowGroup]) -> None:
        """Make each half wait for the keys and values of the other."""
        if self._lanes is None:
            return
        here, aside = self._lanes
        written = here.record_event(), aside.record_event()
        here.wait_event(written[1])
        aside.wait_event(written[0])

    def norm(self, group: RowGroup, norm: RMSNorm, projection: QuantizedLinear | None) -> Rows:
        """Add the pending update and return the norm, quantized if the projection asks for it."""
        row_format = None if projection is None else projection.input_format
        rows = row_kernels.normed(group.residual, group.update, norm.weight, norm.eps, row_format)
        group.update = None
        return rows

    def project(self, projection: QuantizedLinear, rows: Rows) -> Tensor:
        """Multiply. Quantize the rows first if the projection needs it and no kernel has done it."""
        if projection.input_format is not None and isinstance(rows, Tensor):
            rows = row_kernels.quantized(rows, projection.input_format)
        if isinstance(rows, QuantizedRows) and projection.weight.dtype == torch.int8:
            assert projection.scale is not None
            return int8_product(rows, projection.weight, projection.scale)
        return projection.multiply(rows)

    def project_gated(self, projection: QuantizedLinear, rows: Rows, following: QuantizedLinear) -> Rows:
        """Multiply, then gate in one kernel."""
        return row_kernels.gated(self.project(projection, rows), following.input_format)

    def write_heads(self, attention: Attention, projected: Tensor, span: Span, layer: int) -> Tensor:
        """Norm, rotate and write to the cache in one kernel; return queries (1, heads, rows, head_dim)."""
        rows = len(projected)
        queries = projected.new_empty(rows, attention.q_width // attention.head_dim, attention.head_dim)
        keys, values = span.cache.room(layer, span.total)
        own = slice(span.first, span.first + rows)
        norms = attention.q_norm.weight, attention.k_norm.weight
        place_heads(projected, norms, attention.q_norm.eps, span.rotary, queries, keys[0][:, own], values[0][:, own])
        return queries.transpose(0, 1)[None]

    def run_experts(self, experts: Experts, rows: Tensor) -> Tensor:
        """Multiply with all experts at once, without waiting for the device."""
        return run_experts(experts, rows)

    def add(self, group: RowGroup, update: Tensor) -> None:
        """Store the update for the next norm, which adds it."""
        group.update = self.reduced(update)


def _halved(group: RowGroup, lanes: tuple[torch.cuda.Stream, torch.cuda.Stream]) -> list[RowGroup]:
    """Split the rows of one sequence into two groups, each on a lane of its own."""
    (span,) = group.spans
    cut = -(-span.total // 2 // HALF_STEP) * HALF_STEP
    halves = []
    for lane, own in zip(lanes, (slice(cut), slice(cut, span.total)), strict=True):
        rows = group.residual[own]
        rotary = span.rotary[0][own], span.rotary[1][own]
        part = Span(rotary, span.cache, 1, slice(len(rows)), own.start or 0, span.total)
        halves.append(RowGroup(rows, [part], lane=torch.cuda.stream(lane)))
    return halves


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of the second half, one per device."""
    return torch.cuda.Stream(device)


def kernel_cache(device: torch.device) -> Path:
    """Return the folder of the kernels compiled for a GPU: TRITON_CACHE_DIR if it is set, else one of this program. The
    first backend of a process sets that variable for the whole process."""
    if "TRITON_CACHE_DIR" in os.environ:
        return Path(os.environ["TRITON_CACHE_DIR"])
    major, minor = torch.cuda.get_device_capability(device)
    return user_cache_path("sensenova") / "kernels" / f"triton-{triton.__version__}-sm{major}{minor}"
