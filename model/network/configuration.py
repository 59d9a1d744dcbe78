"""The configuration of a network: `config.json` of a checkpoint, checked and turned into plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.json_files import read_json
from model.errors import CheckpointError

LARGEST_NUMBER = 1e12
LARGEST_SIZE = 2**24
LARGEST_SIZES = {"num_hidden_layers": 1024, "num_experts": 4096, "gen_num_experts": 4096}
"""Bounds of the numbers in a configuration. They are checked before anything of that size is built."""
CONFIG_FILE = "config.json"
MODEL_TYPE = "neo_chat"
MLP_HEAD_WIDTH, CONVOLUTIONAL_HEAD_WIDTH = 4096, 1024
"""Inner widths of the head that predicts the clean picture. They do not depend on the hidden size."""


@dataclass(frozen=True)
class DenseMLP:
    """The MLP of a layer: one SwiGLU."""

    intermediate_size: int


@dataclass(frozen=True)
class SparseExperts:
    """The MLP of a layer: a mixture of SwiGLU experts, `top_k` of them for each token (A3B)."""

    intermediate_size: int
    experts: int
    top_k: int
    norm_topk_prob: bool


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of both towers, which differ only in their MLPs.

    The first half of a head's `head_dim` dimensions is rotated by t with `rope_theta`. The next quarter is rotated by h
    and the last quarter by w, both with `rope_theta_hw`.
    """

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    rms_norm_eps: float
    rope_theta: float
    rope_theta_hw: float
    und_mlp: DenseMLP | SparseExperts
    gen_mlp: DenseMLP | SparseExperts


@dataclass(frozen=True)
class VisionConfig:
    """The image embedding of either tower: 16-pixel patches, four of which make one token."""

    hidden_size: int
    patch_size: int
    rope_theta: float


@dataclass(frozen=True)
class FlowConfig:
    """The noise amplitude, and the head that predicts the clean picture with its inner width `head_width`."""

    convolutional_head: bool
    head_width: int
    noise_scale: float
    noise_scale_base_tokens: int
    noise_scale_max: float


@dataclass(frozen=True)
class ModelConfig:
    """The configuration of the whole network."""

    transformer: TransformerConfig
    vision: VisionConfig
    flow: FlowConfig


def read_config(folder: Path) -> ModelConfig:
    """Read `folder/config.json`.

    Raises:
        CheckpointError: the file is missing or not JSON, describes another kind of model, lacks a field, or has a value
            that is not supported.
    """
    path = folder / CONFIG_FILE
    try:
        fields = read_json(path)
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} has no {CONFIG_FILE}",
            f"name the folder with {CONFIG_FILE} and the *.safetensors files",
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}", "check its permissions") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}", "fetch the file again") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} is not a JSON object", "fetch the file again")
    return parse_config(fields, str(path))


def parse_config(fields: Mapping[str, Any], where: str) -> ModelConfig:
    """Check the contents of a `config.json`; `where` names it in messages. Raises CheckpointError."""
    top = _Fields(fields, where, "")
    if fields.get("model_type") != MODEL_TYPE:
        raise CheckpointError(
            f"{where}: model_type is {fields.get('model_type')!r}, not {MODEL_TYPE!r}: not a SenseNova-U1 model",
            "use a checkpoint of the SenseNova-U1 family, such as SenseNova/SenseNova-U1-8B-MoT",
        )
    top.require("downsample_ratio", 0.5)
    top.require("concat_time_token_num", 0)
    top.require("noise_scale_mode", "resolution")
    top.require("add_noise_scale_embedding", True)
    llm, vision = top.section("llm_config"), top.section("vision_config")
    for name in ("tie_word_embeddings", "attention_bias", "use_sliding_window"):
        llm.require(name, False)
    llm.require("hidden_act", "silu")
    llm.require("rope_scaling", None)
    vision.require("num_channels", 3)
    vision.require("patch_size", 16)
    convolutional = bool(top.get("use_pixel_head", False))
    return ModelConfig(
        transformer=_transformer(llm),
        vision=VisionConfig(
            hidden_size=vision.integer("hidden_size"),
            patch_size=vision.integer("patch_size"),
            rope_theta=vision.number("rope_theta_vision", 10000.0),
        ),
        flow=FlowConfig(
            convolutional_head=convolutional,
            head_width=CONVOLUTIONAL_HEAD_WIDTH if convolutional else MLP_HEAD_WIDTH,
            noise_scale=top.number("noise_scale"),
            noise_scale_base_tokens=top.integer("noise_scale_base_image_seq_len"),
            noise_scale_max=top.number("noise_scale_max_value"),
        ),
    )


def _transformer(llm: "_Fields") -> TransformerConfig:
    und_mlp: DenseMLP | SparseExperts
    gen_mlp: DenseMLP | SparseExperts
    kind = llm.get("model_type", "qwen3")
    if kind == "qwen3":
        und_mlp = gen_mlp = DenseMLP(llm.integer("intermediate_size"))
    elif kind == "qwen3_moe":
        llm.require("decoder_sparse_step", 1)
        llm.require("mlp_only_layers", [])
        norm = bool(llm.get("norm_topk_prob", True))
        width, top_k = llm.integer("moe_intermediate_size"), llm.integer("num_experts_per_tok")
        und_mlp = SparseExperts(width, llm.integer("num_experts"), top_k, norm)
        gen_mlp = SparseExperts(
            llm.integer("gen_moe_intermediate_size", width),
            llm.integer("gen_num_experts"),
            llm.integer("gen_num_experts_per_tok", top_k),
            norm,
        )
    else:
        raise CheckpointError(f"{llm.where}: llm_config.model_type {kind!r} is neither qwen3 nor qwen3_moe")
    config = TransformerConfig(
        hidden_size=llm.integer("hidden_size"),
        layers=llm.integer("num_hidden_layers"),
        heads=llm.integer("num_attention_heads"),
        kv_heads=llm.integer("num_key_value_heads"),
        head_dim=llm.integer("head_dim"),
        vocabulary=llm.integer("vocab_size"),
        rms_norm_eps=llm.number("rms_norm_eps"),
        # No default: libraries that move this field silently fall back to 10000, and pictures then go wrong.
        rope_theta=llm.number("rope_theta"),
        rope_theta_hw=llm.number("rope_theta_hw"),
        und_mlp=und_mlp,
        gen_mlp=gen_mlp,
    )
    if config.heads % config.kv_heads:
        raise CheckpointError(f"{llm.where}: {config.heads} heads cannot share {config.kv_heads} key/value heads")
    if config.head_dim % 8:
        raise CheckpointError(f"{llm.where}: llm_config.head_dim is {config.head_dim}, not a multiple of 8")
    return config


def _shown(value: object) -> str:
    """Return a value for a message, cut if it is long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a number that is too large"
    return text if len(text) <= 60 else f"{text[:59]}…"


class _Fields:
    """A section of the JSON. Errors of its look-ups name the file and the full name of the field."""

    def __init__(self, fields: Mapping[str, Any], where: str, prefix: str) -> None:
        self._fields, self.where, self._prefix = fields, where, prefix

    def section(self, name: str) -> "_Fields":
        """Return a subsection."""
        value = self._fields.get(name)
        if not isinstance(value, dict):
            raise self._missing(name)
        return _Fields(value, self.where, f"{self._prefix}{name}.")

    def get(self, name: str, default: Any) -> Any:
        """Return a field, or the default if it is absent or `null`, as some libraries write it."""
        value = self._fields.get(name)
        return default if value is None else value

    def number(self, name: str, default: float | None = None) -> float:
        """Return a positive, finite number."""
        value = self.get(name, default)
        if value is None:
            raise self._missing(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LARGEST_NUMBER:
            raise CheckpointError(f"{self.where}: {self._prefix}{name} is {_shown(value)}, not a positive number")
        return float(value)

    def integer(self, name: str, default: int | None = None) -> int:
        """Return a positive integer."""
        value = self.number(name, default)
        if value != int(value):
            raise CheckpointError(f"{self.where}: {self._prefix}{name} is {value!r}, not a whole number")
        most = LARGEST_SIZES.get(name, LARGEST_SIZE)
        if value > most:
            raise CheckpointError(
                f"{self.where}: {self._prefix}{name} is {int(value):,}; {most:,} at most is supported",
                "fetch config.json again",
            )
        return int(value)

    def require(self, name: str, expected: Any) -> None:
        """Require that a field is absent or has the one value that is supported."""
        value = self.get(name, expected)
        if value != expected:
            raise CheckpointError(
                f"{self.where}: {self._prefix}{name} is {_shown(value)}; only {expected!r} is supported",
                "use a newer version of this program, or a published SenseNova-U1 checkpoint",
            )

    def _missing(self, name: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {self._prefix}{name} is missing", "fetch config.json again")
