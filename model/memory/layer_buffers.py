"""Memory on the device that layers take turns in: a place for each of some layers, fewer than the model has.

A layer always has the same slot, and its parameters lie there even while another layer's numbers do. Both towers use
the same slots: with as many of them as a tower has layers, going from reading to drawing brings every layer once, each
while the ones before it are at work. With fewer, some layers of a tower stay in a slot of their own, and the others,
spread evenly among them, go round in a few. An output matrix that comes in pieces has its turn there, too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.checkpoint.quantization import Fp8Linear
from model.memory.weight_stream import Load, WeightStream
from model.network.transformer import Block, Blocks, Tower

RING = 2
"""Slots that layers go round in: one is computed with while the next layer comes into the other. What is read for the
one after that waits in the host's buffers meanwhile, so that reading does not stop where a slot is not free yet. A
third slot would keep reading ahead of computation that takes about as long; but one that a layer has for itself saves
reading that layer, in every step."""
Shapes = Mapping[str, tuple[torch.Size, torch.dtype]]
"""Of a module's parameters, by their names in it."""
ALIGNMENT = 256
"""Bytes, of each parameter's start."""


@dataclass
class LayerBuffer:
    """Memory for one layer.

    Attributes:
        holds: the layer whose numbers are there, or on their way; None while they are of no use.
        load: what brings them, until they are known to be there.
    """

    memory: Tensor
    holds: "StreamedLayer | None" = None
    load: Load | None = None


@dataclass(eq=False)
class StreamedLayer:
    """A module whose parameters lie in a slot.

    Attributes:
        tensors: official names of what fills them.
    """

    tensors: tuple[str, ...]
    buffer: LayerBuffer


class StreamedBlocks(Blocks):
    """The blocks of a tower: whoever goes through them finds each one's weights there.

    Where only some are gone through, the next ones are brought all the same: most often they are wanted.
    """

    def __init__(self, blocks: Sequence[nn.Module], layers: Sequence[StreamedLayer], stream: WeightStream) -> None:
        super().__init__(blocks)
        self._layers = layers
        self._stream = stream
        by_slot: dict[int, list[StreamedLayer]] = {}
        for layer in layers:
            by_slot.setdefault(id(layer.buffer), []).append(layer)
        turns = by_slot.values()
        self._first = [turn[0] for turn in turns]
        # Behind the last of a slot comes the first one again, for the next pass; in vain where an output matrix in
        # pieces has its turn between two passes.
        self._next = {layer: turn[(place + 1) % len(turn)] for turn in turns for place, layer in enumerate(turn)}
        self.is_whole = len(turns) == len(layers)
        """Whether all of them can be there at once."""

    def __iter__(self) -> Iterator[nn.Module]:
        return (block for _, block in self.through())

    def through(self, layers: range | None = None) -> Iterator[tuple[int, Block]]:
        if layers is None or layers.start == 0:
            self.begin()
        for number, block in super().through(layers):
            layer = self._layers[number]
            self._require(layer)
            yield number, block
            self._bring(self._next[layer])  # which takes its place

    def begin(self) -> None:
        """Have the first layers brought: a pass is about to begin."""
        for layer in self._first:
            self._bring(layer)

    def settle(self) -> None:
        """Return when all are there, if they can be at once."""
        self.begin()
        for layer in self._layers:
            self._require(layer)
            if layer.buffer.load is not None:
                layer.buffer.load.finish()
                layer.buffer.load = None

    @property
    def is_settled(self) -> bool:
        """Whether all are there, and nothing is on its way."""
        return self.is_whole and all(each.buffer.holds is each and each.buffer.load is None for each in self._layers)

    def forget(self) -> None:
        """What is there is out of date."""
        for layer in self._layers:
            if layer.buffer.holds is layer:
                _give_up(layer.buffer)

    def _bring(self, layer: StreamedLayer) -> None:
        buffer = layer.buffer
        failed = buffer.load is not None and buffer.load.has_failed  # which was told; perhaps it works by now
        if buffer.holds is not layer or failed:
            _give_up(buffer)
            buffer.load = self._stream.load(layer.tensors)
            buffer.holds = layer

    def _require(self, layer: StreamedLayer) -> None:
        self._bring(layer)
        buffer = layer.buffer
        if buffer.load is not None:
            buffer.load.wait()
            if buffer.load.is_there:
                buffer.load = None


def _give_up(buffer: LayerBuffer) -> None:
    if buffer.load is not None:
        buffer.load.cancel()
    buffer.holds = buffer.load = None


def is_whole(tower: Tower) -> bool:
    """Whether all weights of a tower can be on the device at once."""
    return not isinstance(tower.blocks, StreamedBlocks) or tower.blocks.is_whole


def is_settled(tower: Tower) -> bool:
    """Whether all weights of a tower are on the device, to stay."""
    return not isinstance(tower.blocks, StreamedBlocks) or tower.blocks.is_settled


def settle(tower: Tower) -> None:
    """Return when all weights of a whole tower are on the device; they stay until the other one's pass begins."""
    if isinstance(tower.blocks, StreamedBlocks):
        tower.blocks.settle()


def make_buffers(count: int, size: int, device: torch.device) -> list[LayerBuffer]:
    """So many, of so many bytes each."""
    return [LayerBuffer(torch.empty(size, dtype=torch.uint8, device=device)) for _ in range(count)]


def buffer_numbers(layers: int, buffers: int) -> list[int]:
    """Which slot each layer of a tower has: its own, if there are enough; otherwise those that take turns are spread
    evenly, so that what is read for them always has the others' time, too. Their slots are the first ones."""
    if buffers >= layers:
        return list(range(layers))
    ring = min(RING, buffers)
    own = buffers - ring
    turning = layers - own
    numbers, next_own, next_turn = [], ring, 0
    for layer in range(layers):
        if (layer + 1) * turning // layers > next_turn:
            numbers.append(next_turn % ring)
            next_turn += 1
        else:
            numbers.append(next_own)
            next_own += 1
    return numbers


def streamed_tensors(block: nn.Module, dtype: torch.dtype) -> Shapes:
    """What of a block lies in a slot: its matrices, by their names in the block. Norms' weights are not worth it."""
    found = {name: (each.shape, dtype) for name, each in block.named_parameters() if each.dim() > 1}
    for name, module in block.named_modules():
        if isinstance(module, Fp8Linear):
            for buffer, tensor in module.named_buffers(recurse=False):
                found[f"{name}.{buffer}"] = tensor.shape, tensor.dtype
    return {name: each for name, each in found.items() if "_norm." not in name}


def buffer_bytes(tensors: Shapes) -> int:
    """Memory that a block takes in a slot."""
    return sum(aligned(shape.numel() * dtype.itemsize) for shape, dtype in tensors.values())


def bind_parameters(buffer: LayerBuffer, block: nn.Module, tensors: Shapes) -> None:
    """Have a block's matrices lie in a slot."""
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
    """Bytes that a parameter of so many takes in a slot."""
    return -(-size // ALIGNMENT) * ALIGNMENT
