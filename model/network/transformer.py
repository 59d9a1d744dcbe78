"""A tower: the transformer blocks of one kind of token, and its final norm."""

from collections.abc import Iterator, Sequence
from typing import cast

from torch import Tensor, nn

from model.network.attention import Attention, Visibility
from model.network.cache import LayerCache
from model.network.configuration import DenseMLP, SparseExperts, TransformerConfig
from model.network.experts import StackedLinear
from model.network.layers import build_mlp
from model.network.norms import RMSNorm
from model.network.operations import Operations, RowGroup, join_rows
from model.network.projection import QuantizedLinear
from model.network.rope import Rotary


class Block(nn.Module):
    """Pre-norm attention and pre-norm MLP, each added to the residual stream.

    The methods hold no tensor longer than they need it: each is as large as the residual stream. They use no
    comprehension: on Python 3.11 the closure of one in an error's traceback keeps the tensors and weights that it uses.
    """

    def __init__(self, config: TransformerConfig, mlp: DenseMLP | SparseExperts) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = build_mlp(config.hidden_size, mlp)

    def forward(self, groups: Sequence[RowGroup], layer: int, visible: Visibility, operations: Operations) -> None:
        """Update the residual streams of one batch.

        Args:
            groups: rows of the same sequences, in one group or in several that run side by side.
            layer: number of this block in its tower.
            visible: which tokens a row may see.
        """
        queries = []
        for group in groups:
            queries.append(self._queries(group, layer, operations))
        operations.wait_for_keys(groups)
        for group in groups:
            with group.lane:
                self._add_attention(group, queries.pop(0), layer, visible, operations)
                self.mlp(group, self.mlp_norm, operations)

    def _queries(self, group: RowGroup, layer: int, operations: Operations) -> list[Tensor]:
        """Write a group's keys and values to the caches, and return its queries, span by span."""
        attention, qkv_proj = self.attention, self.attention.qkv_proj
        queries = []
        with group.lane:
            projected = operations.project(qkv_proj, operations.norm(group, self.attention_norm, qkv_proj))
            for span in group.spans:
                queries.append(operations.write_heads(attention, projected[span.rows], span, layer))
        return queries

    def _add_attention(
        self, group: RowGroup, queries: Sequence[Tensor], layer: int, visible: Visibility, operations: Operations
    ) -> None:
        """Add a group's attention to its residual stream."""
        attended = []
        for q, span in zip(queries, group.spans, strict=True):
            attended.append(operations.attend(self.attention, q, span, layer, visible))
        operations.add_projected(group, self.attention.o_proj, join_rows(attended))

    def projections(self) -> Iterator[QuantizedLinear | StackedLinear]:
        """Yield the matrix products that quantization can replace."""
        yield from (self.attention.qkv_proj, self.attention.o_proj)
        yield from self.mlp.projections()


class Blocks(nn.ModuleList):
    """The blocks of a tower. A subclass may load the weights of a block when a pass reaches it."""

    @property
    def fit_together(self) -> bool:
        """Whether the weights of all blocks can be on the device at once."""
        return True

    @property
    def are_loaded(self) -> bool:
        """Whether the weights of all blocks are on the device, and none is being loaded."""
        return True

    def through(self, layers: range | None = None) -> Iterator[tuple[int, Block]]:
        """Yield blocks in order, each with its number: those of `layers`, or all. Their weights are on the device."""
        for layer in range(len(self)) if layers is None else layers:
            yield layer, cast(Block, self[layer])

    def load_all(self) -> None:
        """Load the weights of all blocks, which must `fit_together`. Return when they are on the device."""


class Tower(nn.Module):
    """The understanding or the generation tower.

    The two ("mixture of transformers") have weights of their own and share the KV cache: each attends to the keys and
    values that the other has written. One forward pass runs one tower.

    Attributes:
        operations: the operations of the blocks. A backend replaces them by faster ones.
        is_dense: whether the MLPs have no experts.
    """

    def __init__(self, config: TransformerConfig, mlp: DenseMLP | SparseExperts) -> None:
        super().__init__()
        self.blocks = Blocks(Block(config, mlp) for _ in range(config.layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.is_dense = isinstance(mlp, DenseMLP)
        self.operations = Operations()

    @property
    def weight_itemsize(self) -> int:
        """Bytes of one number in the projections' weights."""
        return cast(Block, self.blocks[0]).attention.qkv_proj.weight.dtype.itemsize

    def projections(self) -> Iterator[QuantizedLinear | StackedLinear]:
        """Yield the matrix products of all blocks that quantization can replace."""
        for block in range(len(self.blocks)):
            yield from cast(Block, self.blocks[block]).projections()

    def forward(
        self,
        hidden: Tensor,
        rotaries: Sequence[Rotary],
        caches: Sequence[LayerCache],
        visible: Visibility,
        layers: range | None = None,
    ) -> Tensor:
        """Run new tokens, which follow the tokens in the caches.

        Args:
            hidden: embeddings of the new tokens, or the output of earlier layers, (B, N, hidden_size).
            caches: one for all B sequences; or one per branch, each for an equal part of the sequences in order.
                Branches have prefixes of different lengths, so each attends on its own. `Operations.run_together`
                decides whether they share the matrix products. All branches finish a block before the next block
                begins.
            rotaries: tables for the new positions, one pair per cache.
            visible: which tokens the N new tokens may see.
            layers: the layers to run; None for all.

        Returns:
            Hidden states before the final norm, (B, N, hidden_size). Apply `norm` to the rows that are used.
        """
        batches = self.operations.row_groups(hidden, rotaries, caches, visible)
        self.run_blocks(batches, caches, visible, self.operations, layers)
        return join_rows([group.result() for groups in batches for group in groups]).view_as(hidden)

    def run_blocks(
        self,
        batches: Sequence[Sequence[RowGroup]],
        caches: Sequence[LayerCache],
        visible: Visibility,
        operations: Operations,
        layers: range | None = None,
    ) -> None:
        """Run batches of row groups through the blocks; other arguments are those of `forward`."""
        in_step = not self.blocks.are_loaded or any(cache.layers_share for cache in caches)
        with operations.running(batches, in_step):
            for layer, block in self.blocks.through(layers):
                for cache in caches:
                    cache.begin(layer)
                with operations.running_layer():
                    for groups in batches:
                        block(groups, layer, visible, operations)
