"""The memory estimate, and the choice of the fastest offload plan that fits.

An estimate counts weights, layer buffers, keys and values exactly, and the largest set of activations that a pass holds
by their shapes. docs/memory.md compares estimates with measured peaks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from config.mentions import mention
from config.sizes import TOKEN_PIXELS, format_size
from config.units import format_memory
from model.checkpoint.quantization import OFF, Quantization
from model.checkpoint.sharding import WHOLE, Shards, shard_layout
from model.errors import DeviceError, DeviceMemoryError
from model.memory.layer_buffers import RING, aligned
from model.network.cache import CAPACITY_STEP
from model.network.configuration import ModelConfig, SparseExperts, TransformerConfig
from model.network.layers import SPLIT_ROWS, WHOLE_ROWS

Kind = Literal["off", "module", "layers"]
KINDS: tuple[Kind, ...] = get_args(Kind)

HEAD_CHUNK_BYTES = 64 * 2**20
"""Bytes of a chunk of `lm_head`."""
MIN_BUFFERS = 2
"""The fewest layer buffers: one layer computes while the next is loaded."""
USUAL_PREFIXES = 512, 16
"""Prefix tokens to reserve memory for before a request is known: a long prompt, and the unconditional branch."""
STATIC_BYTES = 150 * 2**20
"""Bytes that libraries keep on a GPU, mainly as workspaces of matrix products."""
SPARE_BYTES = 384 * 2**20
"""Bytes that PyTorch may reserve without using them. They stay free before more than the fewest buffers are used."""
PIXELS = 3 * 32 * 32
"""Numbers in one token of a picture."""
SMALLER_SIDES = 1024, 512, 256
"""Sides of square pictures, to suggest one that needs less memory."""


@dataclass(frozen=True)
class OffloadPlan:
    """Which weights are on the device.

    Attributes:
        kind: `off`: all weights. `module`: one tower at a time. `layers`: some layers of a tower at a time.
        buffers: layer buffers, which both towers use in turn; 0 with `off`.
        whole_head: whether `lm_head` stays on the device.
    """

    kind: Kind
    buffers: int
    whole_head: bool


ALL_RESIDENT = OffloadPlan("off", 0, whole_head=True)


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's weights on a device.

    Attributes:
        layer: a layer buffer, which fits the largest layer of both towers.
        layers: number of layers of a tower (not bytes).
        towers: all layers of both towers.
        embedding, head: `embed_tokens` and `lm_head`.
        rest: everything that always stays on the device.
    """

    layer: int
    layers: int
    towers: int
    embedding: int
    head: int
    rest: int

    @classmethod
    def of(
        cls, config: ModelConfig, itemsize: int, quantized: Quantization = OFF, shards: Shards = WHOLE
    ) -> "Weights":
        """Count the weights of a configuration's network, or of one rank's shards of it.

        Args:
            itemsize: bytes of a number.
            quantized: the weights that are eight-bit.
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
                eight_bit = parts[0] == "lm_head" and quantized.head
                others[parts[0] if parts[0] in others else ""] += numbers + rows * 4 if eight_bit else numbers * itemsize
                continue
            eight_bit = parts[0] in quantized.towers and name.endswith("_proj.weight")
            size = aligned(numbers) + aligned(rows * 4) if eight_bit else aligned(numbers * itemsize)
            layer = ".".join(parts[:3])
            layers[layer] = layers.get(layer, 0) + size
        count, towers = config.transformer.layers, sum(layers.values())
        return cls(max(layers.values()), count, towers, others["embed_tokens"], others["lm_head"], others[""])

    def streams(self, offload_plan: OffloadPlan) -> bool:
        """Return whether a tower's layers do not fit together, so that every step loads some of them."""
        return offload_plan.kind == "layers" and offload_plan.buffers < self.layers

    def on_device(self, offload_plan: OffloadPlan) -> int:
        """Return the bytes of weights and buffers on the device."""
        if offload_plan.kind == "off":
            return self.towers + self.embedding + self.head + self.rest
        if offload_plan.whole_head:
            head = self.head
        elif self.streams(offload_plan):
            head = 0  # its chunks use the layer buffers
        else:
            head = min(self.head, RING * HEAD_CHUNK_BYTES)
        return offload_plan.buffers * self.layer + head + self.rest


@dataclass(frozen=True)
class Workload:
    """The sizes of a request that decide how much memory it needs.

    Attributes:
        image_tokens: tokens of the picture to draw; 0 for a text.
        prefixes: tokens of each branch's prefix, including those that are still to be generated.
        cached_states: hidden states of the picture's tokens that a step cache holds for each branch.
        read_tokens: most tokens that one pass of the understanding tower reads; 0 for the longest prefix.
    """

    image_tokens: int
    prefixes: tuple[int, ...]
    cached_states: int = 0
    read_tokens: int = 0

    @property
    def smaller(self) -> str:
        """A suggestion of a request that needs less memory, for a message."""
        less = "fewer or smaller input pictures, or fewer tokens"
        if self.image_tokens == 0:
            return less
        side = next((side for side in SMALLER_SIDES if (side // TOKEN_PIXELS) ** 2 < self.image_tokens), None)
        example = "" if side is None else f" ({mention('size', format_size((side, side)))})"
        return f"a smaller picture{example}, {less}"


def working_bytes(config: ModelConfig, workload: Workload, itemsize: int, layer_by_layer: bool) -> int:
    """Return the bytes besides the weights: keys and values, and activations at their peak.

    Args:
        layer_by_layer: whether only one layer's keys and values of the picture are stored (`ScratchCache`).
    """
    transformer, branches, tokens = config.transformer, len(workload.prefixes), workload.image_tokens
    denoising = _step_bytes(transformer, tokens, branches, itemsize)
    denoising += workload.cached_states * branches * tokens * transformer.hidden_size * itemsize
    prefill = _pass_bytes(transformer, workload.read_tokens or max(workload.prefixes), 1, itemsize)
    with_room = _cache_bytes(transformer, workload.prefixes, tokens, itemsize)
    if not layer_by_layer or not tokens:
        return transformer.layers * with_room + max(denoising, prefill)
    prefixes = _cache_bytes(transformer, workload.prefixes, 0, itemsize)
    return transformer.layers * prefixes + max(with_room + denoising, prefill)


def _cache_bytes(transformer: TransformerConfig, prefixes: Sequence[int], room: int, itemsize: int) -> int:
    """Return the bytes of one layer's keys and values for all prefixes, each with `room` positions after it."""
    positions = sum(-(-(prefix + room) // CAPACITY_STEP) * CAPACITY_STEP for prefix in prefixes)
    return 2 * positions * transformer.kv_heads * transformer.head_dim * itemsize


def _pass_bytes(transformer: TransformerConfig, tokens: int, branches: int, itemsize: int) -> int:
    """Return the peak bytes of a tower's pass, which is inside a block's MLP: the normed input and inner activations of
    one branch; the tower's input, the residual stream and its update of every branch."""
    mlp, hidden = transformer.gen_mlp, transformer.hidden_size
    rows = tokens if tokens <= WHOLE_ROWS else SPLIT_ROWS
    used = mlp.top_k if isinstance(mlp, SparseExperts) else 1
    inner = rows * 3 * mlp.intermediate_size * used
    if tokens > WHOLE_ROWS:
        inner += 2 * tokens * hidden  # the results of the parts, and their concatenation
    return itemsize * (inner + tokens * hidden * (2 + 4 * branches))


def _step_bytes(transformer: TransformerConfig, tokens: int, branches: int, itemsize: int) -> int:
    """Return the bytes of a denoising step: its pass, and the picture in float32 and in the model's dtype, with each
    branch's prediction and velocity. The previous step's tensors count too: they are yielded while this step runs."""
    pictures = tokens * PIXELS * (4 * (branches + 3) + itemsize * (branches + 5))
    return _pass_bytes(transformer, tokens, branches, itemsize) + pictures


def peak_bytes(
    config: ModelConfig, weights: Weights, offload_plan: OffloadPlan, workload: Workload, itemsize: int
) -> int:
    """Return the estimated peak of device memory, in bytes."""
    working = working_bytes(config, workload, itemsize, weights.streams(offload_plan))
    return weights.on_device(offload_plan) + working + STATIC_BYTES


def choose_offload_plan(
    wanted: str, config: ModelConfig, weights: Weights, workload: Workload, itemsize: int, budget: int
) -> OffloadPlan:
    """Return the fastest offload plan that fits, or a plan of the kind that the user asked for.

    Args:
        wanted: `auto` or one of `KINDS`. `off` and `module` are used even if the estimate says that they do not fit.
        budget: bytes of device memory.

    Raises:
        DeviceError: `wanted` is not a kind of plan.
        DeviceMemoryError: not even two layers at a time fit. The message says how much memory is enough.
    """
    if wanted not in ("auto", *KINDS):
        raise DeviceError(f"there is no offload {wanted!r}", f"use auto, {', '.join(KINDS)}")

    def peak(offload_plan: OffloadPlan) -> int:
        return peak_bytes(config, weights, offload_plan, workload, itemsize)

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
            f"{format_memory(budget)} of memory is too little for this: it needs at least {format_memory(smallest)}",
            f"allow more (`gpu_memory`), or ask for {workload.smaller}",
        )
    larger = (replace(least, buffers=buffers) for buffers in range(weights.layers, MIN_BUFFERS, -1))
    return next(filter(fits_well, larger), least)
