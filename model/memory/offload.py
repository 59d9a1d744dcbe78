"""Offloading: a network whose weights are not all on the device, but are loaded from files when they are needed."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.checkpoint.layout import ParameterSlice, checkpoint_layout
from model.checkpoint.loader import (
    ParameterWriter,
    allocate_parameters,
    checkpoint_tensors,
    fill,
    meta_network,
    require_finite,
)
from model.checkpoint.lora import Adapter, updated_tensors
from model.checkpoint.quantization import OFF, Quantization, empty_quantized
from model.checkpoint.stored_tensor import StoredTensor
from model.checkpoint.tensor_files import read_row, stored_tensors
from model.checkpoint.tensor_names import format_names
from model.checkpoint.weights_file import HEAD
from model.errors import CheckpointError
from model.events import LoadProgress
from model.memory.estimate import HEAD_CHUNK_BYTES, OffloadPlan
from model.memory.layer_buffers import (
    RING,
    LayerBuffer,
    Shapes,
    StreamedBlocks,
    StreamedLayer,
    bind_parameters,
    buffer_bytes,
    buffer_numbers,
    make_buffers,
    streamed_tensors,
)
from model.memory.weight_stream import WeightStream
from model.network.configuration import read_config
from model.network.projection import Projection, QuantizedLinear
from model.network.sensenova import SenseNovaU1
from model.network.transformer import Tower

EMBEDDING = "language_model.model.embed_tokens.weight"
TOWERS = ("und", "gen")


@dataclass(frozen=True)
class Offload:
    """A network with offloaded weights, and the stream that loads them.

    Attributes:
        folder, weights: the files, as for `load_checkpoint`.
        stream: loads weights into the layer buffers.
        layout: `checkpoint_layout` of the network, with the chunks of `lm_head`.
        offloaded: official names of the tensors that are not on the device all the time.
    """

    network: SenseNovaU1
    folder: Path
    weights: Path | None
    stream: WeightStream
    layout: Mapping[str, ParameterSlice]
    offloaded: frozenset[str]

    @torch.inference_mode(False)
    def replace_adapters(self, before: Sequence[Adapter], after: Sequence[Adapter]) -> None:
        """Replace the merged LoRAs; as `checkpoint.loader.replace_adapters`."""
        require_mergeable(after, self.offloaded)
        touched = {self.layout[name].parameter for name in updated_tensors([*before, *after])}
        resident = {
            name: tensor
            for name, tensor in stored_tensors(self.folder, self.weights).items()
            if name not in self.offloaded and self.layout[name].parameter in touched
        }
        for _, tower in _towers(self.network):
            cast(StreamedBlocks, tower.blocks).invalidate()
        self.stream.writer = ParameterWriter(self.network, self.layout, after, self.stream.parts)
        fill(self.network, self.weights or self.folder, resident, self.layout, after)


@torch.inference_mode(False)  # for the same reason as `load_checkpoint`
def load_offloaded(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    offload_plan: OffloadPlan,
    check_weights: bool = False,
    on_progress: Callable[[LoadProgress], None] | None = None,
    quantized: Quantization = OFF,
    adapters: Sequence[Adapter] = (),
    weights: Path | None = None,
) -> Offload:
    """Build the network and read the weights that stay on the device: norms, image embeddings and flow matching.

    A pass loads a block's matrices into a layer buffer when it reaches the block. The embedding's rows are read when a
    token needs them.

    Args:
        offload_plan: the buffers to allocate, and whether `lm_head` stays on the device.
        check_weights, on_progress, quantized, adapters, weights: as for `load_checkpoint`.

    Raises:
        CheckpointError: as for `load_checkpoint`; or a LoRA changes an offloaded embedding or `lm_head`.
    """
    config = read_config(folder)
    tensors, layout = checkpoint_tensors(folder, config, quantized, weights), checkpoint_layout(config)
    network = meta_network(config, has_head=HEAD in tensors)
    whole_head = offload_plan.whole_head or HEAD not in tensors
    resident_weights = quantized if whole_head else replace(quantized, head=False)
    empty_quantized(network, resident_weights, device, torch.device("meta"))
    shapes = {name: [streamed_tensors(block, dtype) for block in tower.blocks] for name, tower in _towers(network)}
    layer_bytes = max(buffer_bytes(each) for blocks in shapes.values() for each in blocks)
    buffers = make_buffers(offload_plan.buffers, layer_bytes, device)
    chunks = {} if whole_head else _head_chunks(tensors[HEAD], layer_bytes, dtype)
    stream = WeightStream({**tensors, **chunks}, device)
    streamed = _stream_towers(network, layout, shapes, buffers, stream)
    network.add_module("embed_tokens", FileEmbedding(tensors[EMBEDDING], device, dtype))
    if chunks:
        # Logits are computed between two passes, so the chunks of lm_head can use the ring. If all layers fit together,
        # they stay in their buffers, and the chunks get buffers of their own.
        ring = None if network.und.blocks.fit_together else buffers[:RING]
        network.add_module("lm_head", StreamedHead(chunks, ring, stream, device, dtype))
        for number, (name, chunk) in enumerate(chunks.items()):
            layout[name] = ParameterSlice(f"lm_head.chunks.{number}.weight", 0, chunk.shape)
    offloaded = frozenset([*streamed, EMBEDDING, *([HEAD] if chunks else [])])
    require_mergeable(adapters, offloaded)
    allocate_parameters(network, device, dtype)
    stream.writer = ParameterWriter(network, layout, adapters, stream.parts)
    resident = {name: tensor for name, tensor in tensors.items() if name not in offloaded}
    fill(network, weights or folder, resident, layout, adapters, check_weights, on_progress)
    if check_weights:
        require_finite(weights or folder, {name: tensors[name] for name in offloaded})
    return Offload(network, folder, weights, stream, layout, offloaded)


def require_mergeable(adapters: Sequence[Adapter], offloaded: Collection[str]) -> None:
    """Raise CheckpointError if LoRAs change tensors that are read in parts."""
    unmergeable = sorted({EMBEDDING, HEAD} & updated_tensors(adapters) & set(offloaded))
    if unmergeable:
        raise CheckpointError(
            f"a LoRA changes tensors that are read in parts here:\n{format_names(unmergeable)}", "use `offload=off`"
        )


def _towers(network: SenseNovaU1) -> list[tuple[str, Tower]]:
    return [(name, cast(Tower, network.get_submodule(name))) for name in TOWERS]


def _stream_towers(
    network: SenseNovaU1,
    layout: Mapping[str, ParameterSlice],
    shapes: Mapping[str, Sequence[Shapes]],
    buffers: Sequence[LayerBuffer],
    stream: WeightStream,
) -> list[str]:
    """Make both towers' matrices, of these shapes, views of the buffers; return the official names of their tensors."""
    filled_by: dict[str, list[str]] = {}
    for name, target in layout.items():
        filled_by.setdefault(target.parameter, []).append(name)
    streamed: list[str] = []
    for name, tower in _towers(network):
        layers = []
        for index, number in enumerate(buffer_numbers(len(tower.blocks), len(buffers))):
            bind_parameters(buffers[number], tower.blocks[index], shapes[name][index])
            parameters = [f"{name}.blocks.{index}.{matrix}" for matrix in shapes[name][index]]
            official = tuple(part for parameter in parameters for part in filled_by.get(parameter, ()))
            layers.append(StreamedLayer(official, buffers[number]))
            streamed += official
        tower.blocks = StreamedBlocks(list(tower.blocks), layers, stream)
    return streamed


class FileEmbedding(nn.Module):
    """An `nn.Embedding` whose rows are read from the file in each call."""

    def __init__(self, tensor: StoredTensor, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self._tensor = tensor
        self._device, self._dtype = device, dtype
        self._file = tensor.file.open("rb", buffering=0)

    def forward(self, ids: Tensor) -> Tensor:
        """(…,) int64 → (…, hidden_size)."""
        distinct, places = ids.unique(return_inverse=True)
        rows = torch.stack([read_row(self._file.fileno(), self._tensor, number) for number in distinct.tolist()])
        return F.embedding(places, rows.to(self._device).to(self._dtype))


class StreamedHead(nn.Module):
    """`lm_head` in chunks of rows, which are loaded one after another. It has the interface of `OutputHead`."""

    is_resident = False

    def __init__(
        self,
        chunks: Mapping[str, StoredTensor],
        buffers: Sequence[LayerBuffer] | None,
        stream: WeightStream,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """
        Args:
            chunks: parts of `lm_head`, by name.
            buffers: the buffers to share with layers. None: allocate buffers for the chunks.
        """
        super().__init__()
        with torch.device("meta"):
            parts = [Projection(chunk.shape[1], chunk.shape[0]) for chunk in chunks.values()]
        shapes = [streamed_tensors(part, dtype) for part in parts]
        if buffers is None:
            buffers = make_buffers(min(RING, len(parts)), max(map(buffer_bytes, shapes)), device)
        layers = []
        for number, name in enumerate(chunks):
            buffer = buffers[number % len(buffers)]
            bind_parameters(buffer, parts[number], shapes[number])
            layers.append(StreamedLayer((name,), buffer))
        self.chunks = StreamedBlocks(parts, layers, stream)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, hidden_size) → (…, vocabulary)."""
        return torch.cat([part(hidden) for part in self.parts()], dim=-1)

    def parts(self) -> Iterator[QuantizedLinear]:
        """Yield each chunk when it is on the device."""
        return (cast(Projection, chunk) for chunk in self.chunks)

    def complete(self, logits: Tensor) -> Tensor:
        """Return the logits as they are: the chunks cover the whole vocabulary."""
        return logits


def _head_chunks(head: StoredTensor, most: int, dtype: torch.dtype) -> dict[str, StoredTensor]:
    """Split `lm_head` into tensors of whole rows, each of at most `most` bytes on the device."""
    rows, columns = head.shape
    step = min(HEAD_CHUNK_BYTES * rows // (head.stop - head.start), most // (columns * dtype.itemsize))
    step = max(step // head.row_unit, 1) * head.row_unit
    chunks = [head.rows(first, min(first + step, rows)) for first in range(0, rows, step)]
    return {chunk.name: chunk for chunk in chunks}
