"""Offloading: a network whose weights are not all on the device, but are loaded from files when they are needed."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.checkpoint.int8 import Int8Linear
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
    ALIGNMENT,
    Shapes,
    StreamedBlocks,
    StreamedLayer,
    bind_parameters,
    buffer_bytes,
    buffer_numbers,
    divide,
    link,
    streamed_tensors,
    text_buffer_numbers,
)
from model.memory.weight_stream import WeightStream
from model.network.configuration import read_config
from model.network.projection import Projection, QuantizedLinear
from model.network.sensenova import SenseNovaU1
from model.network.transformer import Blocks

EMBEDDING = "language_model.model.embed_tokens.weight"
GEN, UND, HEAD_CHUNKS = "gen.blocks", "und.blocks", "lm_head.chunks"
"""Paths of the modules whose weights are in layer buffers."""
SCALE_BYTES = 4


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
        for tower in (self.network.und, self.network.gen):
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

    A pass loads a block's matrices into a layer buffer when it reaches the block, unless they are there already. The
    embedding's rows are read when a token needs them.

    Args:
        offload_plan: the buffers to allocate, and whether `lm_head` always stays on the device.
        check_weights, on_progress, quantized, adapters, weights: as for `load_checkpoint`.

    Raises:
        CheckpointError: as for `load_checkpoint`; or a LoRA changes an offloaded embedding or `lm_head`.
    """
    config = read_config(folder)
    tensors, layout = checkpoint_tensors(folder, config, quantized, weights), checkpoint_layout(config)
    network = meta_network(config, has_head=HEAD in tensors)
    whole_head = offload_plan.whole_head or HEAD not in tensors
    empty_quantized(network, replace(quantized, head=quantized.head and whole_head), device, torch.device("meta"))
    shapes = {path: [streamed_tensors(each, dtype) for each in _modules(network, path)] for path in (GEN, UND)}
    chunks: dict[str, StoredTensor] = {}
    if not whole_head:
        most = None if offload_plan.head_buffers else max(map(buffer_bytes, shapes[UND]))
        chunks = _head_chunks(tensors[HEAD], most, 1 if quantized.head else dtype.itemsize)
        head_device = device if quantized.head else None
        network.add_module("lm_head", StreamedHead([chunk.shape for chunk in chunks.values()], head_device))
        shapes[HEAD_CHUNKS] = [streamed_tensors(each, dtype) for each in _modules(network, HEAD_CHUNKS)]
        for number, (name, chunk) in enumerate(chunks.items()):
            layout[name] = ParameterSlice(f"{HEAD_CHUNKS}.{number}.weight", 0, chunk.shape)
    stream = WeightStream({**tensors, **chunks}, device)
    streamed = _stream_layers(network, layout, shapes, offload_plan, stream, device)
    network.add_module("embed_tokens", FileEmbedding(tensors[EMBEDDING], device, dtype))
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


def _modules(network: SenseNovaU1, path: str) -> list[nn.Module]:
    """Return the blocks of a tower, or the chunks of `lm_head`."""
    return list(cast(Blocks, network.get_submodule(path)))


def _stream_layers(
    network: SenseNovaU1,
    layout: Mapping[str, ParameterSlice],
    shapes: Mapping[str, Sequence[Shapes]],
    offload_plan: OffloadPlan,
    stream: WeightStream,
    device: torch.device,
) -> list[str]:
    """Make the matrices of both towers and of a `StreamedHead` views of layer buffers, which a stream fills.

    Args:
        shapes: of the modules at each path.

    Returns:
        The official names of their tensors.
    """
    filled_by: dict[str, list[str]] = {}
    for name, target in layout.items():
        filled_by.setdefault(target.parameter, []).append(name)
    largest = {path: max(map(buffer_bytes, each)) for path, each in shapes.items()}
    count, head_count = offload_plan.und_buffers, offload_plan.head_buffers
    gen_sizes = [largest[GEN]] * offload_plan.gen_buffers
    und_sizes = [largest[UND]] * count + [largest.get(HEAD_CHUNKS, 0)] * head_count
    memory = torch.empty(max(sum(gen_sizes), sum(und_sizes)), dtype=torch.uint8, device=device)
    gen_buffers, und_buffers = divide(memory, (gen_sizes, und_sizes))
    numbers = text_buffer_numbers(len(shapes[UND]), len(shapes.get(HEAD_CHUNKS, ())), count, head_count)
    buffers = {
        GEN: [gen_buffers[number] for number in buffer_numbers(len(shapes[GEN]), len(gen_buffers))],
        UND: [und_buffers[number] for number in numbers[: len(shapes[UND])]],
        HEAD_CHUNKS: [und_buffers[number] for number in numbers[len(shapes[UND]) :]],
    }
    layers: dict[str, list[StreamedLayer]] = {}
    for path, own_shapes in shapes.items():
        layers[path] = []
        for index, module in enumerate(_modules(network, path)):
            bind_parameters(buffers[path][index], module, own_shapes[index])
            parameters = [f"{path}.{index}.{matrix}" for matrix in own_shapes[index]]
            official = tuple(part for parameter in parameters for part in filled_by.get(parameter, ()))
            layers[path].append(StreamedLayer(official, buffers[path][index]))
    link(layers[GEN])
    link([*layers[UND], *layers.get(HEAD_CHUNKS, ())])
    for path, streamed in layers.items():
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, StreamedBlocks(_modules(network, path), streamed, stream))
    return [name for streamed in layers.values() for layer in streamed for name in layer.tensors]


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

    def __init__(self, shapes: Sequence[Sequence[int]], int8_device: torch.device | None) -> None:
        """Make chunks without memory.

        Args:
            shapes: rows and columns of each chunk.
            int8_device: the device that multiplies with the chunks if they are quantized; None if they are not.
        """
        super().__init__()
        meta = torch.device("meta")
        with meta:
            self.chunks = Blocks(
                Projection(columns, rows) if int8_device is None else Int8Linear(rows, columns, int8_device, meta)
                for rows, columns in shapes
            )

    @property
    def is_resident(self) -> bool:
        """See `OutputHead.is_resident`."""
        return self.chunks.fit_together

    def load_all(self) -> None:
        """See `OutputHead.load_all`."""
        self.chunks.load_all()

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, hidden_size) → (…, vocabulary)."""
        return torch.cat([part(hidden) for part in self.parts()], dim=-1)

    def parts(self) -> Iterator[QuantizedLinear]:
        """Yield each chunk when it is on the device."""
        return (cast(QuantizedLinear, chunk) for chunk in self.chunks)

    def complete(self, logits: Tensor) -> Tensor:
        """Return the logits as they are: the chunks cover the whole vocabulary."""
        return logits


def _head_chunks(head: StoredTensor, most: int | None, itemsize: int) -> dict[str, StoredTensor]:
    """Split `lm_head` into tensors of whole rows.

    Args:
        most: the most bytes of a chunk on the device. None: equal chunks of about `HEAD_CHUNK_BYTES`.
        itemsize: bytes of a number on the device. A row of one-byte numbers also has a scale.
    """
    rows, columns = head.shape
    row_bytes = columns * itemsize + (SCALE_BYTES if itemsize == 1 else 0)
    if most is None:
        step = -(-rows // -(-rows * row_bytes // HEAD_CHUNK_BYTES))
        step = -(-step // head.row_unit) * head.row_unit
    else:
        step = max((most - 2 * ALIGNMENT) // row_bytes // head.row_unit, 1) * head.row_unit
    chunks = [head.rows(first, min(first + step, rows)) for first in range(0, rows, step)]
    return {chunk.name: chunk for chunk in chunks}
