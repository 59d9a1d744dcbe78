"""Checkpoint layout: the official name of each tensor → a range of one of our parameters."""

import math
from dataclasses import dataclass

from model.network.configuration import DenseMLP, ModelConfig, SparseExperts
from model.network.flow import SINUSOID_WIDTH

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ParameterSlice:
    """The range of a parameter that one official tensor fills.

    Fused projections and stacked experts consist of several slices of one parameter. Convolution kernels as large as
    their stride become matrices: the numbers are the same, in the same order.

    Attributes:
        parameter: name of our parameter.
        offset: flat index of the slice's first element in the parameter.
        shape: shape of the official tensor.
    """

    parameter: str
    offset: int
    shape: Shape

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class _Layout:
    def __init__(self) -> None:
        self.slices: dict[str, ParameterSlice] = {}

    def put(self, parameter: str, *parts: tuple[str, Shape]) -> None:
        """Fill a parameter with tensors, one after another."""
        offset = 0
        for name, shape in parts:
            self.slices[name] = ParameterSlice(parameter, offset, shape)
            offset += math.prod(shape)

    def affine(self, parameter: str, name: str, weight: Shape) -> None:
        """Add a weight and a bias."""
        self.put(f"{parameter}.weight", (f"{name}.weight", weight))
        self.put(f"{parameter}.bias", (f"{name}.bias", weight[:1]))


def checkpoint_layout(config: ModelConfig) -> dict[str, ParameterSlice]:
    """Return the parameter slice of each tensor in a checkpoint of this configuration, by its official name."""
    layout = _Layout()
    transformer, vision = config.transformer, config.vision
    hidden, matrix = transformer.hidden_size, (transformer.vocabulary, transformer.hidden_size)
    layout.put("embed_tokens.weight", ("language_model.model.embed_tokens.weight", matrix))
    layout.put("lm_head.weight", ("language_model.lm_head.weight", matrix))
    for tower, suffix, mlp in (("und", "", transformer.und_mlp), ("gen", "_mot_gen", transformer.gen_mlp)):
        layout.put(f"{tower}.norm.weight", (f"language_model.model.norm{suffix}.weight", (hidden,)))
        for index in range(transformer.layers):
            ours, theirs = f"{tower}.blocks.{index}", f"language_model.model.layers.{index}"
            _put_attention(layout, config, ours, theirs, suffix)
            _put_mlp(layout, hidden, mlp, f"{ours}.mlp", f"{theirs}.mlp{suffix}")
    patch = (vision.hidden_size, 3, vision.patch_size, vision.patch_size)
    for ours, theirs in (
        ("und_vision", "vision_model.embeddings"),
        ("gen_vision", "fm_modules.vision_model_mot_gen.embeddings"),
    ):
        layout.affine(f"{ours}.patch", f"{theirs}.patch_embedding", patch)
        layout.affine(f"{ours}.merge", f"{theirs}.dense_embedding", (hidden, vision.hidden_size, 2, 2))
    for embedder in ("timestep_embedder", "noise_scale_embedder"):
        layout.affine(f"{embedder}.first", f"fm_modules.{embedder}.mlp.0", (hidden, SINUSOID_WIDTH))
        layout.affine(f"{embedder}.second", f"fm_modules.{embedder}.mlp.2", (hidden, hidden))
    width = config.flow.head_width
    if config.flow.convolutional_head:
        layout.affine("fm_head.first", "fm_modules.fm_head.conv1", (width, hidden // 4, 3, 3))
        layout.affine("fm_head.second", "fm_modules.fm_head.conv2", (3 * 8 * 8, width // 4, 3, 3))
    else:
        layout.affine("fm_head.first", "fm_modules.fm_head.0", (width, hidden))
        layout.affine("fm_head.second", "fm_modules.fm_head.2", (3 * 32 * 32, width))
    return layout.slices


def _put_attention(layout: _Layout, config: ModelConfig, ours: str, theirs: str, suffix: str) -> None:
    shape = config.transformer
    hidden, half = shape.hidden_size, shape.head_dim // 2
    q_rows, kv_rows = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layout.put(f"{ours}.attention_norm.weight", (f"{theirs}.input_layernorm{suffix}.weight", (hidden,)))
    layout.put(f"{ours}.mlp_norm.weight", (f"{theirs}.post_attention_layernorm{suffix}.weight", (hidden,)))
    layout.put(
        f"{ours}.attention.qkv_proj.weight",
        (f"{theirs}.self_attn.q_proj{suffix}.weight", (q_rows, hidden)),
        (f"{theirs}.self_attn.k_proj{suffix}.weight", (kv_rows, hidden)),
        (f"{theirs}.self_attn.v_proj{suffix}.weight", (kv_rows, hidden)),
    )
    layout.put(f"{ours}.attention.o_proj.weight", (f"{theirs}.self_attn.o_proj{suffix}.weight", (hidden, q_rows)))
    for side in ("q", "k"):
        layout.put(
            f"{ours}.attention.{side}_norm.weight",
            (f"{theirs}.self_attn.{side}_norm{suffix}.weight", (half,)),
            (f"{theirs}.self_attn.{side}_norm_hw{suffix}.weight", (half,)),
        )


def _put_mlp(layout: _Layout, hidden: int, mlp: DenseMLP | SparseExperts, ours: str, theirs: str) -> None:
    width = mlp.intermediate_size
    if isinstance(mlp, DenseMLP):
        gate_up = [(f"{theirs}.{part}_proj.weight", (width, hidden)) for part in ("gate", "up")]
        layout.put(f"{ours}.gate_up_proj.weight", *gate_up)
        layout.put(f"{ours}.down_proj.weight", (f"{theirs}.down_proj.weight", (hidden, width)))
        return
    experts = [f"{theirs}.experts.{index}" for index in range(mlp.experts)]
    layout.put(f"{ours}.router.weight", (f"{theirs}.gate.weight", (mlp.experts, hidden)))
    layout.put(
        f"{ours}.gate_up_proj.weight",
        *((f"{expert}.{part}_proj.weight", (width, hidden)) for expert in experts for part in ("gate", "up")),
    )
    layout.put(f"{ours}.down_proj.weight", *((f"{expert}.down_proj.weight", (hidden, width)) for expert in experts))
