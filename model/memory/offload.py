"""A network whose weights are not all on the device: they come from the checkpoint's files as they are needed."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.checkpoint.layout import ParameterSlice, checkpoint_layout
from model.checkpoint.loader import Filling, compare, fill, give_memory, network_without_memory, require_finite
from model.checkpoint.lora import Adapter, changed_by
from model.checkpoint.quantization import empty_quantized
from model.checkpoint.safetensors_files import StoredTensor, read_exactly, stored_tensors
from model.checkpoint.tensor_names import listed
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
    is_whole,
    make_buffers,
    streamed_tensors,
)
from model.memory.weight_stream import WeightStream
from model.network.configuration import read_config
from model.network.sensenova import SenseNovaU1
from model.network.transformer import Tower

EMBEDDING = "language_model.model.embed_tokens.weight"
HEAD = "language_model.lm_head.weight"
TOWERS = ("und", "gen")


@dataclass(frozen=True)
class Offload:
    """What brings a network's weights.

    Attributes:
        stream: reads them.
        elsewhere: official names of the tensors that are not on the device all the time.
    """

    network: SenseNovaU1
    folder: Path
    stream: WeightStream
    layout: Mapping[str, ParameterSlice]
    elsewhere: frozenset[str]

    @torch.inference_mode(False)
    def change_adapters(self, before: Sequence[Adapter], after: Sequence[Adapter]) -> None:
        """Have other LoRAs; as `checkpoint.change_adapters`."""
        require_mergeable(after, self.elsewhere)
        touched = {self.layout[name].parameter for name in changed_by([*before, *after])}
        resident = {
            name: tensor
            for name, tensor in stored_tensors(self.folder).items()
            if name not in self.elsewhere and self.layout[name].parameter in touched
        }
        for _, tower in _towers(self.network):
            cast(StreamedBlocks, tower.blocks).forget()
        self.stream.filling = Filling(self.network, self.layout, after)
        fill(self.network, self.folder, resident, self.layout, after)


# As in `load_checkpoint`.
@torch.inference_mode(False)
def load_offloaded(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    offload_plan: OffloadPlan,
    check_weights: bool = False,
    on_progress: Callable[[LoadProgress], None] | None = None,
    quantized: Collection[str] = (),
    adapters: Sequence[Adapter] = (),
) -> Offload:
    """Build the network and read what stays on the device: norms, image embeddings and the flow-matching modules. The
    towers' matrices are read into slots when a pass comes to them, the embedding's rows when a token needs them.

    Args:
        others: as for `load_checkpoint`.

    Raises:
        CheckpointError: as `load_checkpoint`; or a LoRA changes the embedding or the output matrix, and those are
            among what is not on the device.
    """
    config = read_config(folder)
    tensors, layout = stored_tensors(folder), checkpoint_layout(config)
    compare(tensors, layout, folder)
    network = network_without_memory(config)
    empty_quantized(network, quantized, device, torch.device("meta"))
    shapes = {name: [streamed_tensors(block, dtype) for block in tower.blocks] for name, tower in _towers(network)}
    layer_bytes = max(buffer_bytes(each) for blocks in shapes.values() for each in blocks)
    buffers = make_buffers(offload_plan.buffers, layer_bytes, device)
    pieces = {} if offload_plan.whole_head else _head_chunks(tensors[HEAD], layer_bytes, dtype)
    stream = WeightStream({**tensors, **pieces}, device)
    streamed = _stream_towers(network, layout, shapes, buffers, stream)
    network.add_module("embed_tokens", FileEmbedding(tensors[EMBEDDING], device, dtype))
    if pieces:
        # Words are chosen between two passes: the pieces come to where layers take turns. Where all layers are there at
        # once they stay there, and the pieces have slots of their own.
        turning = None if is_whole(network.und) else buffers[:RING]
        network.add_module("lm_head", StreamedHead(pieces, turning, stream, device, dtype))
        for number, (name, piece) in enumerate(pieces.items()):
            layout[name] = ParameterSlice(f"lm_head.pieces.{number}.weight", 0, piece.shape)
    elsewhere = frozenset([*streamed, EMBEDDING, *([HEAD] if pieces else [])])
    require_mergeable(adapters, elsewhere)
    give_memory(network, device, dtype)
    stream.filling = Filling(network, layout, adapters)
    resident = {name: tensor for name, tensor in tensors.items() if name not in elsewhere}
    fill(network, folder, resident, layout, adapters, check_weights, on_progress)
    if check_weights:
        require_finite(folder, {name: tensors[name] for name in elsewhere})
    return Offload(network, folder, stream, layout, elsewhere)


def require_mergeable(adapters: Sequence[Adapter], elsewhere: Collection[str]) -> None:
    """Raise CheckpointError if LoRAs change what is read row by row or in pieces."""
    unmergeable = sorted({EMBEDDING, HEAD} & changed_by(adapters) & set(elsewhere))
    if unmergeable:
        raise CheckpointError(
            f"a LoRA changes tensors that are read in parts here:\n{listed(unmergeable)}", "use `offload=off`"
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
    """Have both towers' matrices, of these shapes, lie in slots; returns the official names of what fills them."""
    filled_by: dict[str, list[str]] = {}
    for name, slot in layout.items():
        filled_by.setdefault(slot.parameter, []).append(name)
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
    """`nn.Embedding` whose rows are read when they are asked for."""

    def __init__(self, tensor: StoredTensor, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self._tensor = tensor
        self._device, self._dtype = device, dtype
        self._file = tensor.file.open("rb", buffering=0)

    def forward(self, ids: Tensor) -> Tensor:
        """(…,) int64 → (…, hidden_size)."""
        distinct, places = ids.unique(return_inverse=True)
        columns = self._tensor.shape[1]
        rows = torch.empty(len(distinct), columns, dtype=self._tensor.dtype)
        for row, number in zip(rows.view(torch.uint8), distinct.tolist(), strict=True):
            read_exactly(self._file.fileno(), self._tensor, number * columns, row)
        return F.embedding(places, rows.to(self._device).to(self._dtype))


class StreamedHead(nn.Module):
    """The output matrix, a few rows at a time."""

    def __init__(
        self,
        pieces: Mapping[str, StoredTensor],
        buffers: Sequence[LayerBuffer] | None,
        stream: WeightStream,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """slots: that the pieces take turns in, beside whatever else does; None for some of their own."""
        super().__init__()
        with torch.device("meta"):
            parts = [nn.Linear(piece.shape[1], piece.shape[0], bias=False) for piece in pieces.values()]
        shapes = [streamed_tensors(part, dtype) for part in parts]
        if buffers is None:
            buffers = make_buffers(min(RING, len(parts)), max(map(buffer_bytes, shapes)), device)
        layers = []
        for number, name in enumerate(pieces):
            slot = buffers[number % len(buffers)]
            bind_parameters(slot, parts[number], shapes[number])
            layers.append(StreamedLayer((name,), slot))
        self.pieces = StreamedBlocks(parts, layers, stream)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, hidden_size) → (…, vocabulary)."""
        return torch.cat([piece(hidden) for piece in self.pieces], dim=-1)


def _head_chunks(head: StoredTensor, most: int, dtype: torch.dtype) -> dict[str, StoredTensor]:
    """The output matrix as several tensors of whole rows, of at most so many bytes each on the device."""
    rows, columns = head.shape
    row_bytes = columns * head.dtype.itemsize
    step = max(1, min(HEAD_CHUNK_BYTES // row_bytes, most // (columns * dtype.itemsize)))
    pieces = {}
    for first in range(0, rows, step):
        last = min(first + step, rows)
        start, stop = head.start + first * row_bytes, head.start + last * row_bytes
        name = f"{HEAD}[{first}:{last}]"
        pieces[name] = replace(head, name=name, shape=(last - first, columns), start=start, stop=stop)
    return pieces
