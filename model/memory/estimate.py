"""The memory estimate, and the choice of the fastest offload plan that fits.

While text is written, memory holds layers of the understanding tower and chunks of `lm_head`. While a picture is drawn,
the same memory holds layers of the generation tower. A plan says how both divide it.

An estimate counts weights, layer buffers, keys and values exactly, and the largest set of activations that a pass holds
by their shapes. docs/memory.md compares estimates with measured peaks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
from model.network.operations import EXPERT_ROWS

Kind = Literal["off", "module", "layers"]
KINDS: tuple[Kind, ...] = get_args(Kind)

HEAD_CHUNK_BYTES = 64 * 2**20
"""The most bytes of a chunk of `lm_head` that has a buffer of its own size."""
CHUNK_SPARE_BYTES = 2**16
"""Bytes by which a chunk of whole rows may be larger than an equal part of `lm_head`."""
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
        gen_buffers: layer buffers while a picture is drawn; 0 with `off`.
        und_buffers: layer buffers while a prompt is read or text is written; 0 with `off`. They are in the same memory.
        whole_head: whether `lm_head` always stays on the device. Otherwise its chunks are loaded like layers.
        head_buffers: buffers for chunks of `lm_head` after those of the layers. 0: its chunks and the layers of the
            understanding tower share the buffers.
    """

    kind: Kind
    gen_buffers: int
    und_buffers: int
    whole_head: bool
    head_buffers: int = 0


ALL_RESIDENT = OffloadPlan("off", 0, 0, whole_head=True)
LEAST = OffloadPlan("layers", MIN_BUFFERS, MIN_BUFFERS, whole_head=False)
"""The plan that needs the least memory."""


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's weights on a device.

    Attributes:
        gen_layer, und_layer: the largest layer of each tower, for which a layer buffer has room.
        layers: number of layers of a tower (not bytes).
        towers: all layers of both towers.
        embedding, head: `embed_tokens` and `lm_head`.
        rest: everything that always stays on the device.
    """

    gen_layer: int
    und_layer: int
    layers: int
    towers: int
    embedding: int
    head: int
    rest: int

    @classmethod
    def of(cls, config: ModelConfig, itemsize: int, quantized: Quantization = OFF, shards: Shards = WHOLE) -> "Weights":
        """Count the weights of a configuration's network, or of one rank's shards of it.

        Args:
            itemsize: bytes of a number.
            quantized: the weights that are eight-bit.
        """
        others = {"embed_tokens": 0, "lm_head": 0, "": 0}
        layers: dict[str, int] = {}
        largest = {"gen": 0, "und": 0}
        parameters: dict[str, tuple[int, int]] = {}
        for buffer in shard_layout(config, shards).values():
            numbers, rows = parameters.get(buffer.parameter, (0, 0))
            parameters[buffer.parameter] = numbers + buffer.numel, rows + buffer.shape[0]
        for name, (numbers, rows) in parameters.items():
            parts = name.split(".")
            if parts[1:2] != ["blocks"] or "_norm." in name:
                eight_bit = parts[0] == "lm_head" and quantized.head
                others[parts[0] if parts[0] in others else ""] += (
                    numbers + rows * 4 if eight_bit else numbers * itemsize
                )
                continue
            eight_bit = parts[0] in quantized.towers and name.endswith("_proj.weight")
            size = aligned(numbers) + aligned(rows * 4) if eight_bit else aligned(numbers * itemsize)
            layer = ".".join(parts[:3])
            layers[layer] = layers.get(layer, 0) + size
            largest[parts[0]] = max(largest[parts[0]], layers[layer])
        count, towers = config.transformer.layers, sum(layers.values())
        heads = others["embed_tokens"], others["lm_head"]
        return cls(largest["gen"], largest["und"], count, towers, *heads, others[""])

    @property
    def head_chunks(self) -> int:
        """Number of chunks of `lm_head` if they have buffers of their own size."""
        return -(-self.head // HEAD_CHUNK_BYTES)

    @property
    def head_chunk(self) -> int:
        """Bytes of the buffer of such a chunk."""
        return aligned(-(-self.head // self.head_chunks)) + CHUNK_SPARE_BYTES

    def streams(self, offload_plan: OffloadPlan) -> bool:
        """Return whether the generation tower does not fit, so that every step loads some of its layers."""
        return offload_plan.kind == "layers" and offload_plan.gen_buffers < self.layers

    def on_device(self, offload_plan: OffloadPlan) -> int:
        """Return the bytes of weights and buffers on the device."""
        if offload_plan.kind == "off":
            return self.towers + self.embedding + self.head + self.rest
        text = offload_plan.und_buffers * self.und_layer + offload_plan.head_buffers * self.head_chunk
        head = self.head if offload_plan.whole_head else 0
        return max(offload_plan.gen_buffers * self.gen_layer, text) + head + self.rest

    def divide(self, memory: int, most_gen: int) -> OffloadPlan:
        """Return the plan that divides memory for layer buffers so that each tower loads the fewest bytes in a pass.

        If all layers of the understanding tower fit, the rest holds chunks of `lm_head`. Otherwise chunks are as large
        as layers and share the buffers: keeping a chunk saves as many bytes as keeping a layer.

        Args:
            memory: bytes, at least those of two layers of each tower.
            most_gen: the most layer buffers of the generation tower.
        """
        gen_buffers = min(most_gen, memory // self.gen_layer)
        spare = memory - self.layers * self.und_layer
        if spare >= min(RING, self.head_chunks) * self.head_chunk:
            head_buffers = min(self.head_chunks, spare // self.head_chunk)
            return OffloadPlan("layers", gen_buffers, self.layers, whole_head=False, head_buffers=head_buffers)
        return OffloadPlan("layers", gen_buffers, memory // self.und_layer, whole_head=False)

    def text_pass_bytes(self, offload_plan: OffloadPlan) -> int:
        """Return the bytes that each pass of a text loads to the device, once the layers that stay are there."""
        if offload_plan.whole_head:
            return 0
        if offload_plan.head_buffers:
            loaded = self.head_chunks - (offload_plan.head_buffers - RING)
            return 0 if loaded <= RING else self.head * loaded // self.head_chunks
        stay = (offload_plan.und_buffers - RING) * self.und_layer
        return self.layers * self.und_layer + self.head - stay


@dataclass(frozen=True)
class Workload:
    """The sizes of a request that decide how much memory it needs.

    Attributes:
        image_tokens: tokens of the picture to draw; 0 for a text.
        prefixes: tokens of each branch's prefix, including those that are still to be generated.
        cached_states: hidden states of the picture's tokens that a step cache holds for each branch.
        kept_pictures: pictures in float32 that stay in memory between the steps, besides the picture itself.
        read_tokens: most tokens that one pass of the understanding tower reads; 0 for the longest prefix.
    """

    image_tokens: int
    prefixes: tuple[int, ...]
    cached_states: int = 0
    read_tokens: int = 0
    kept_pictures: int = 0

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
    denoising += workload.kept_pictures * tokens * PIXELS * 4
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
    if isinstance(mlp, SparseExperts):
        most = EXPERT_ROWS
        # Each row's copies, one for each of its experts. Beside them, `gate_up_proj` of all copies; or, where experts
        # run one after another, the sum in float32 and what is added to it.
        inner = min(tokens, most) * (mlp.top_k * hidden + max(2 * mlp.top_k * mlp.intermediate_size, 5 * hidden))
    else:
        most = WHOLE_ROWS
        inner = (tokens if tokens <= most else SPLIT_ROWS) * 3 * mlp.intermediate_size
    if tokens > most:
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

    module = OffloadPlan("module", weights.layers, weights.layers, whole_head=True)
    for offload_plan in (ALL_RESIDENT, module):
        if wanted == offload_plan.kind or (wanted == "auto" and fits_well(offload_plan)):
            return offload_plan
    smallest = peak(LEAST)
    if smallest > budget:
        raise DeviceMemoryError(
            f"{format_memory(budget)} of memory is too little for this: it needs at least {format_memory(smallest)}",
            f"allow more (`gpu_memory`), or ask for {workload.smaller}",
        )

    def memory_for_buffers(layer_by_layer: bool) -> int:
        working = working_bytes(config, workload, itemsize, layer_by_layer)
        return budget - SPARE_BYTES - STATIC_BYTES - weights.rest - working

    least_text, layers = MIN_BUFFERS * weights.und_layer, weights.layers
    memory = memory_for_buffers(layer_by_layer=False)
    if memory >= max(layers * weights.gen_layer, least_text):
        return weights.divide(memory, layers)
    # Keys and values of the picture are then stored for one layer only, which leaves memory for more layers.
    memory = memory_for_buffers(layer_by_layer=True)
    if layers > MIN_BUFFERS and memory >= max(MIN_BUFFERS * weights.gen_layer, least_text):
        return weights.divide(memory, layers - 1)
    return LEAST
