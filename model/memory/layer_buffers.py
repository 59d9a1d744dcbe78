"""Layer buffers: device memory that a few layers use in turn if not all of them fit.

Both towers use the same memory, each with a division of its own. The understanding tower's division also has chunks of
`lm_head`. What a tower has loaded stays until the other tower runs: while text is written, layers of the understanding
tower and chunks of `lm_head`; while a picture is drawn, layers of the generation tower.

A layer always uses the same buffer, and its parameters point there even while the buffer holds another layer. If each
layer of a tower has its own buffer, switching from one tower to the other loads every layer once, while earlier layers
compute. With fewer buffers, some layers have their own buffer. The other layers are spread evenly between them and
share the ring.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from model.memory.weight_stream import Load, WeightStream
from model.network.transformer import Block, Blocks

RING = 2
"""Buffers that layers share: one layer computes from a buffer while the next layer is loaded into the other. Meanwhile
the layer after that is read into the host's buffers, so that reading does not stop while no device buffer is free. A
third shared buffer would gain little, because reading and computing a layer take about the same time. A buffer for one
layer alone saves reading that layer in every step."""
Shapes = Mapping[str, tuple[torch.Size, torch.dtype]]
"""Shape and dtype of a module's parameters, by their names in it."""
ALIGNMENT = 256
"""Bytes to which the start of each parameter is aligned."""


@dataclass
class LayerBuffer:
    """Device memory for one layer or chunk of `lm_head`.

    Attributes:
        division: the buffers of the same tower.
        holds: the layer that the buffer contains, or that is being loaded into it. None: its contents are invalid.
        load: the load in progress; None once it is known to be complete.
    """

    memory: Tensor
    division: "BufferDivision"
    holds: "StreamedLayer | None" = None
    load: Load | None = None

    def empty(self) -> None:
        """Cancel a load in progress, and mark the contents as invalid."""
        if self.load is not None:
            self.load.cancel()
        self.holds = self.load = None


class BufferDivision:
    """The layer buffers of one tower: its division of the memory that both towers use in turn."""

    def __init__(self, parts: Sequence[Tensor], divisions: list["BufferDivision"]) -> None:
        """
        Args:
            parts: the memory of each buffer.
            divisions: all divisions of the same memory, to which the new one is added.
        """
        self.buffers = [LayerBuffer(part, self) for part in parts]
        self._divisions = divisions
        self._is_filled = False
        divisions.append(self)

    def use(self) -> None:
        """Mark the other divisions' buffers as empty, because these buffers are about to be filled."""
        for other in self._divisions:
            if other is not self and other._is_filled:
                for buffer in other.buffers:
                    buffer.empty()
                other._is_filled = False
        self._is_filled = True


def divide(memory: Tensor, sizes: Sequence[Sequence[int]]) -> list[list[LayerBuffer]]:
    """Divide bytes into the layer buffers of each tower, which overlap those of the other tower.

    Args:
        sizes: for each tower, the bytes of its buffers, multiples of `ALIGNMENT`.
    """
    divisions: list[BufferDivision] = []
    parts = [memory[: sum(each)].split(list(each)) for each in sizes]
    return [BufferDivision(each, divisions).buffers for each in parts]


@dataclass(eq=False)
class StreamedLayer:
    """A module whose parameters are in a layer buffer.

    Attributes:
        tensors: official names of the tensors to load.
        following: the layer that is loaded into the buffer after this one; the layer itself if no other uses it.
    """

    tensors: tuple[str, ...]
    buffer: LayerBuffer
    following: "StreamedLayer" = field(init=False)

    def __post_init__(self) -> None:
        self.following = self


def link(layers: Sequence[StreamedLayer]) -> None:
    """Set `following` of layers that run in this order again and again."""
    by_buffer: dict[int, list[StreamedLayer]] = {}
    for layer in layers:
        by_buffer.setdefault(id(layer.buffer), []).append(layer)
    for sharing in by_buffer.values():
        for layer, following in zip(sharing, [*sharing[1:], sharing[0]], strict=True):
            layer.following = following


class StreamedBlocks(Blocks):
    """The blocks of a tower, or chunks of `lm_head`. Iterating loads the weights of each block before yielding it.

    After a block, its buffer loads the following one, which may be a chunk of `lm_head`. A pass through some of the
    blocks does so, too, because the next pass usually needs the blocks after them.
    """

    def __init__(self, blocks: Sequence[nn.Module], layers: Sequence[StreamedLayer], stream: WeightStream) -> None:
        super().__init__(blocks)
        self._layers = layers
        self._stream = stream
        first: dict[int, StreamedLayer] = {}
        for layer in layers:
            first.setdefault(id(layer.buffer), layer)
        self._first = list(first.values())

    @property
    def fit_together(self) -> bool:
        """See `Blocks.fit_together`."""
        return all(layer.following is layer for layer in self._layers)

    @property
    def are_loaded(self) -> bool:
        """See `Blocks.are_loaded`."""
        loaded = all(each.buffer.holds is each and each.buffer.load is None for each in self._layers)
        return self.fit_together and loaded

    def __iter__(self) -> Iterator[nn.Module]:
        return (block for _, block in self.through())

    def through(self, layers: range | None = None) -> Iterator[tuple[int, Block]]:
        """See `Blocks.through`."""
        if layers is None or layers.start == 0:
            self._start_pass()
        for number, block in super().through(layers):
            layer = self._layers[number]
            self._require(layer)
            yield number, block
            self._start_load(layer.following)  # overwrites `layer`, unless that is the same

    def load_all(self) -> None:
        """See `Blocks.load_all`. The weights stay until the other tower's pass begins."""
        self._start_pass()
        for layer in self._layers:
            self._require(layer)
            if layer.buffer.load is not None:
                layer.buffer.load.finish()
                layer.buffer.load = None

    def invalidate(self) -> None:
        """Mark every layer as not loaded, because the weights have changed."""
        for layer in self._layers:
            if layer.buffer.holds is layer:
                layer.buffer.empty()

    def _start_pass(self) -> None:
        for layer in self._first:
            self._start_load(layer)

    def _start_load(self, layer: StreamedLayer) -> None:
        buffer = layer.buffer
        buffer.division.use()
        has_failed = buffer.load is not None and buffer.load.has_failed  # `wait` has raised it; a retry may succeed
        if buffer.holds is not layer or has_failed:
            buffer.empty()
            buffer.load = self._stream.load(layer.tensors)
            buffer.holds = layer

    def _require(self, layer: StreamedLayer) -> None:
        self._start_load(layer)
        buffer = layer.buffer
        if buffer.load is not None:
            buffer.load.wait()
            if buffer.load.is_complete:
                buffer.load = None


def buffer_numbers(layers: int, buffers: int) -> list[int]:
    """Return the buffer of each layer of a tower.

    With enough buffers each layer has its own. Otherwise layers that are spread evenly over the tower share the first
    `RING` buffers, so that one of them loads while the layers before it compute.
    """
    if buffers >= layers:
        return list(range(layers))
    ring = min(RING, buffers)
    own = buffers - ring
    sharing = layers - own
    numbers, next_own, next_shared = [], ring, 0
    for layer in range(layers):
        if (layer + 1) * sharing // layers > next_shared:
            numbers.append(next_shared % ring)
            next_shared += 1
        else:
            numbers.append(next_own)
            next_own += 1
    return numbers


def text_buffer_numbers(layers: int, chunks: int, buffers: int, head_buffers: int) -> list[int]:
    """Return the buffer of each layer of the understanding tower, then of each chunk of `lm_head`.

    Args:
        buffers: buffers of the layers.
        head_buffers: buffers of the chunks, after those of the layers; 0 if the chunks use those of the layers.
    """
    if not head_buffers:
        return buffer_numbers(layers + chunks, buffers)
    own = (buffers + number for number in buffer_numbers(chunks, head_buffers))
    return [*buffer_numbers(layers, buffers), *own]


def streamed_tensors(block: nn.Module, dtype: torch.dtype) -> Shapes:
    """Return the parameters of a block that belong in a buffer: its matrices. The small norms stay on the device."""
    found = {name: (each.shape, dtype) for name, each in block.named_parameters() if each.dim() > 1}
    for name, module in block.named_modules():
        for buffer, tensor in module.named_buffers(recurse=False):  # of a quantized projection
            found[f"{name}.{buffer}" if name else buffer] = tensor.shape, tensor.dtype
    return {name: each for name, each in found.items() if "_norm." not in name}


def buffer_bytes(tensors: Shapes) -> int:
    """Return the bytes that a block takes in a buffer."""
    return sum(aligned(shape.numel() * dtype.itemsize) for shape, dtype in tensors.values())


def bind_parameters(buffer: LayerBuffer, block: nn.Module, tensors: Shapes) -> None:
    """Make a block's matrices views of a buffer."""
    offset = 0
    for path, (shape, dtype) in tensors.items():
        size = shape.numel() * dtype.itemsize
        view = buffer.memory[offset : offset + size].view(dtype).view(shape)
        offset += aligned(size)
        parent, _, name = path.rpartition(".")
        module = block.get_submodule(parent)
        if name in module._buffers:
            module.register_buffer(name, view)
        else:
            module.register_parameter(name, nn.Parameter(view, requires_grad=False))


def aligned(size: int) -> int:
    """Return the bytes that a parameter of `size` bytes takes in a buffer."""
    return -(-size // ALIGNMENT) * ALIGNMENT
