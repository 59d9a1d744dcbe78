"""Where weights lie, and how much memory that takes: predicted, so that the fastest placement that fits is chosen.

A prediction counts weights, slots, keys and values exactly, and the largest set of activations that a pass holds by
their shapes. docs/memory.md holds predictions against measured peaks.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from config.mentions import mention
from config.sizes import TOKEN_PIXELS, format_size
from config.units import format_memory
from model.checkpoint.sharding import WHOLE, Shards, shard_layout
from model.errors import DeviceError, DeviceMemoryError
from model.memory.layer_buffers import RING, aligned
from model.network.cache import CAPACITY_STEP
from model.network.configuration import ModelConfig, SparseExperts, TransformerConfig
from model.network.layers import SPLIT_ROWS, WHOLE_ROWS

Kind = Literal["off", "module", "layers"]
KINDS: tuple[Kind, ...] = get_args(Kind)

HEAD_CHUNK_BYTES = 64 * 2**20
"""Of the output matrix, where it comes in pieces."""
MIN_BUFFERS = 2
USUAL_PREFIXES = 512, 16
"""Tokens of a long prompt and of the unconditional branch: what there is room for before a request is known."""
STATIC_BYTES = 150 * 2**20
"""What libraries keep for themselves on a GPU: workspaces of matrix products, above all."""
SPARE_BYTES = 384 * 2**20
"""What PyTorch may reserve and not use, at most; left free before slots beyond the fewest are taken."""
PIXELS = 3 * 32 * 32
"""Numbers of one token of a picture."""
SMALLER_SIDES = 1024, 512, 256
"""Of square pictures, to name one that takes less memory."""


@dataclass(frozen=True)
class OffloadPlan:
    """Where weights lie.

    Attributes:
        slots: for the towers' layers (see `buffers`), in both towers' turn; 0 with `off`.
        whole_head: whether the output matrix stays on the device.
    """

    kind: Kind
    buffers: int
    whole_head: bool


ALL_RESIDENT = OffloadPlan("off", 0, whole_head=True)


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's weights on a device.

    Attributes:
        layer: a slot, for the largest layer of both towers.
        layers: how many a tower has.
        towers: all layers of both.
        rest: what always stays on the device.
    """

    layer: int
    layers: int
    towers: int
    embedding: int
    head: int
    rest: int

    @classmethod
    def of(
        cls, config: ModelConfig, itemsize: int, quantized: Collection[str] = (), shards: Shards = WHOLE
    ) -> "Weights":
        """Of the whole network of a configuration, or a part of it.

        Args:
            itemsize: of a number.
            quantized: the towers whose projections are eight-bit.
        """
        others = {"embed_tokens": 0, "lm_head": 0, "": 0}
        layers: dict[str, int] = {}
        parameters: dict[str, tuple[int, int]] = {}
        for buffer in shard_layout(config, shards).values():
            numbers, rows = parameters.get(buffer.parameter, (0, 0))
            parameters[buffer.parameter] = numbers + buffer.numel, rows + buffer.shape[0]
        for name, (numbers, rows) in parameters.items():
            parts = name.split(".")
            if parts[1:2] != ["blocks"] or "_norm." in name:
                others[parts[0] if parts[0] in others else ""] += numbers * itemsize
                continue
            eight_bit = parts[0] in quantized and name.endswith("_proj.weight")
            size = aligned(numbers) + aligned(rows * 4) if eight_bit else aligned(numbers * itemsize)
            layer = ".".join(parts[:3])
            layers[layer] = layers.get(layer, 0) + size
        count, towers = config.transformer.layers, sum(layers.values())
        return cls(max(layers.values()), count, towers, others["embed_tokens"], others["lm_head"], others[""])

    def streams(self, offload_plan: OffloadPlan) -> bool:
        """Whether a tower's layers cannot all be there at once, so that a step has some of them brought."""
        return offload_plan.kind == "layers" and offload_plan.buffers < self.layers

    def on_device(self, offload_plan: OffloadPlan) -> int:
        """Bytes that a placement takes."""
        if offload_plan.kind == "off":
            return self.towers + self.embedding + self.head + self.rest
        if offload_plan.whole_head:
            head = self.head
        elif self.streams(offload_plan):
            head = 0  # its pieces come into the layers' slots
        else:
            head = min(self.head, RING * HEAD_CHUNK_BYTES)
        return offload_plan.buffers * self.layer + head + self.rest


@dataclass(frozen=True)
class Workload:
    """What a request needs room for.

    Attributes:
        image_tokens: of the picture that is drawn; 0 where text is written.
        prefixes: tokens of each branch, those still to be written included.
        kept_states: hidden states of the picture's tokens that a step cache holds of each branch.
    """

    image_tokens: int
    prefixes: tuple[int, ...]
    kept_states: int = 0

    @property
    def smaller(self) -> str:
        """What needs less room, in words."""
        less = "fewer or smaller input pictures, or fewer tokens"
        if self.image_tokens == 0:
            return less
        side = next((side for side in SMALLER_SIDES if (side // TOKEN_PIXELS) ** 2 < self.image_tokens), None)
        example = "" if side is None else f" ({mention('size', format_size((side, side)))})"
        return f"a smaller picture{example}, {less}"


def working_bytes(config: ModelConfig, work: Workload, itemsize: int, layer_by_layer: bool) -> int:
    """Memory besides the weights: keys and values, and activations at their peak.

    Args:
        layer_by_layer: whether a picture's own keys and values are there of one layer only (`ScratchCache`).
    """
    transformer = config.transformer
    drawing = _drawing_bytes(transformer, work.image_tokens, len(work.prefixes), itemsize)
    drawing += work.kept_states * len(work.prefixes) * work.image_tokens * transformer.hidden_size * itemsize
    reading = _pass_bytes(transformer, max(work.prefixes), 1, itemsize)
    with_room = _cache_bytes(transformer, work.prefixes, work.image_tokens, itemsize)
    if not layer_by_layer or not work.image_tokens:
        return transformer.layers * with_room + max(drawing, reading)
    prefixes = _cache_bytes(transformer, work.prefixes, 0, itemsize)
    return transformer.layers * prefixes + max(with_room + drawing, reading)


def _cache_bytes(transformer: TransformerConfig, prefixes: Sequence[int], room: int, itemsize: int) -> int:
    """One layer's keys and values of all prefixes, with room behind each."""
    positions = sum(-(-(prefix + room) // CAPACITY_STEP) * CAPACITY_STEP for prefix in prefixes)
    return 2 * positions * transformer.kv_heads * transformer.head_dim * itemsize


def _pass_bytes(transformer: TransformerConfig, tokens: int, branches: int, itemsize: int) -> int:
    """A tower's pass is at its peak within a block's MLP: of one branch the normed input and the inner activations, of
    every branch what goes into the tower, the residual stream and what is to be added to it."""
    mlp, hidden = transformer.gen_mlp, transformer.hidden_size
    rows = tokens if tokens <= WHOLE_ROWS else SPLIT_ROWS
    used = mlp.top_k if isinstance(mlp, SparseExperts) else 1
    inner = rows * 3 * mlp.intermediate_size * used
    if tokens > WHOLE_ROWS:
        inner += 2 * tokens * hidden  # the pieces' results, and all of them joined
    return itemsize * (inner + tokens * hidden * (2 + 4 * branches))


def _drawing_bytes(transformer: TransformerConfig, tokens: int, branches: int, itemsize: int) -> int:
    """A step's pass, and the picture in float32 and the model's type: as it is, as each branch predicts it, the
    velocities, and the same of the step before, which is told while this one is computed."""
    pictures = tokens * PIXELS * (4 * (branches + 3) + itemsize * (branches + 5))
    return _pass_bytes(transformer, tokens, branches, itemsize) + pictures


def peak_bytes(config: ModelConfig, weights: Weights, offload_plan: OffloadPlan, work: Workload, itemsize: int) -> int:
    """Predicted peak of the device's memory."""
    working = working_bytes(config, work, itemsize, weights.streams(offload_plan))
    return weights.on_device(offload_plan) + working + STATIC_BYTES


def choose(
    wanted: str, config: ModelConfig, weights: Weights, work: Workload, itemsize: int, budget: int
) -> OffloadPlan:
    """The fastest placement that fits, or the one that is wanted.

    Args:
        wanted: `auto` or one of `KINDS`. Whoever says `off` or `module` gets it, predicted to fit or not.
        budget: bytes of the device's memory.

    Raises:
        DeviceError: there is no such placement.
        DeviceMemoryError: not even two layers at a time fit; the message tells what would.
    """
    if wanted not in ("auto", *KINDS):
        raise DeviceError(f"there is no offload {wanted!r}", f"use auto, {', '.join(KINDS)}")

    def peak(offload_plan: OffloadPlan) -> int:
        return peak_bytes(config, weights, offload_plan, work, itemsize)

    def fits_well(offload_plan: OffloadPlan) -> bool:
        return peak(offload_plan) + SPARE_BYTES <= budget

    module = OffloadPlan("module", weights.layers, whole_head=True)
    for offload_plan in (ALL_RESIDENT, module):
        if wanted == offload_plan.kind or (wanted == "auto" and fits_well(offload_plan)):
            return offload_plan
    least = OffloadPlan("layers", MIN_BUFFERS, whole_head=False)
    smallest = peak(least)
    if smallest > budget:
        raise DeviceMemoryError(
            f"{format_memory(budget)} of memory are too little for this: the smallest that works is "
            f"{format_memory(smallest)}",
            f"give it more (`gpu_memory`), or ask for {work.smaller}",
        )
    larger = (replace(least, buffers=buffers) for buffers in range(weights.layers, MIN_BUFFERS, -1))
    return next(filter(fits_well, larger), least)
