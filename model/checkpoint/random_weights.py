"""Random weights in the official layout, to test the program and to measure its speed."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from model.checkpoint.fp8 import Fp8Linear
from model.checkpoint.int8 import Int8Linear
from model.checkpoint.layout import ParameterSlice, checkpoint_layout
from model.checkpoint.loader import empty_network
from model.checkpoint.quantization import OFF, Quantization
from model.checkpoint.quantized_experts import QuantizedExperts
from model.checkpoint.sharding import Shards, shard_layout, shard_of
from model.checkpoint.stored_tensor import StoredTensor
from model.checkpoint.writer import write_checkpoint
from model.network.configuration import ModelConfig
from model.network.sensenova import SenseNovaU1

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "<img>", "</img>")
THINK_TOKENS = ("<think>", "</think>")

TINY_SETTINGS: dict[str, Any] = {
    "settings": {"num_steps": 10, "max_tokens": 64, "max_think_tokens": 64},
    "trained_sizes": [[256, 256], [320, 192], [192, 320]],
    "answer_input": {"min": 1024, "max": 65536},
    "edit_input": {"min": 1024, "max": 65536},
}

EIGHT_B: dict[str, Any] = {
    "hidden": 4096,
    "layers": 42,
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
    "ffn": 12288,
    "vocabulary": 151936,
    "vision_hidden": 1024,
}
"""Arguments of `config_fields` that the published 8B models share."""
SHAPES: dict[str, dict[str, Any]] = {
    "u1-8b": {**EIGHT_B, "convolutional_head": False},
    "u1.5-8b": {**EIGHT_B, "convolutional_head": True},
    "a3b": {
        **EIGHT_B,
        "hidden": 2048,
        "layers": 48,
        "kv_heads": 4,
        "ffn": 768,
        "experts": (128, 32),
        "convolutional_head": False,
    },
    "tiny": {
        "hidden": 128,
        "layers": 3,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 32,
        "ffn": 320,
        "vocabulary": 320,
        "vision_hidden": 64,
    },
}
"""Published models by name, and one that is small enough to try a measurement anywhere, as arguments of
`config_fields`."""


def config_fields(
    *,
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    ffn: int,
    vocabulary: int,
    vision_hidden: int,
    convolutional_head: bool = True,
    experts: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Return the contents of `config.json` for the U1 (MLP head) or U1.5 (convolutional head) architecture.

    Args:
        experts: numbers of experts of the understanding and the generation tower, each of the width `ffn`, as in A3B;
            None for dense MLPs.
    """
    mixture: dict[str, Any] = {}
    if experts is not None:
        mixture = {
            "model_type": "qwen3_moe",
            "moe_intermediate_size": ffn,
            "num_experts": experts[0],
            "gen_num_experts": experts[1],
            "num_experts_per_tok": 8,
            "norm_topk_prob": True,
            "rope_theta": 1e7,
        }
    return {
        "architectures": ["NEOChatModel"],
        "model_type": "neo_chat",
        "template": "neo1_0",
        "downsample_ratio": 0.5,
        "use_pixel_head": convolutional_head,
        "fm_head_layers": 2,
        "fm_head_dim": 1536,
        "fm_head_mlp_ratio": 1,
        "noise_scale": 1.0,
        "noise_scale_mode": "resolution",
        "noise_scale_base_image_seq_len": 64,
        "noise_scale_max_value": 16.0 if convolutional_head else 8.0,
        "add_noise_scale_embedding": True,
        "concat_time_token_num": 0,
        "llm_config": {
            "model_type": "qwen3",
            "hidden_size": hidden,
            "intermediate_size": ffn,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "vocab_size": vocabulary,
            "rms_norm_eps": 1e-6,
            "rope_theta": 5e6,
            "rope_theta_hw": 1e4,
            "tie_word_embeddings": False,
            "attention_bias": False,
            "hidden_act": "silu",
            **mixture,
        },
        "vision_config": {
            "model_type": "neo_vision",
            "hidden_size": vision_hidden,
            "llm_hidden_size": hidden,
            "patch_size": 16,
            "num_channels": 3,
            "downsample_ratio": 0.5,
            "rope_theta_vision": 1e4,
        },
    }


def write_tiny_checkpoint(folder: Path, seed: int = 0) -> None:
    """Write a random 3-layer U1.5 (about 3 million parameters, 6 MB) with a byte-level tokenizer.

    It draws noise and writes gibberish, with exactly the code that runs the 8B models.
    """
    tokenizer = byte_tokenizer()
    fields = config_fields(**{**SHAPES["tiny"], "vocabulary": tokenizer.get_vocab_size()})
    write_random_checkpoint(
        folder, fields, dtype=torch.bfloat16, seed=seed, tokenizer=tokenizer, recommended=TINY_SETTINGS
    )


def write_random_checkpoint(
    folder: Path,
    fields: Mapping[str, Any],
    *,
    dtype: torch.dtype,
    seed: int = 0,
    shard_bytes: int = 4 * 2**30,
    tokenizer: Tokenizer | None = None,
    recommended: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint with random weights; arguments as for `write_checkpoint`.

    Norm weights are 1, biases are 0, and all others are normal with standard deviation 1/√fan-in.

    Raises:
        CheckpointError: `folder` exists already.
    """
    generator = torch.Generator().manual_seed(seed)

    def numbers(name: str, target: ParameterSlice) -> Tensor:
        return _random(name, target, dtype, generator)

    write_checkpoint(
        folder,
        fields,
        numbers,
        dtype=dtype,
        shard_bytes=shard_bytes,
        tokenizer=tokenizer,
        recommended=recommended,
    )


def random_network(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, quantized: Quantization = OFF
) -> SenseNovaU1:
    """Build a network with random weights, which are generated on the device.

    Quantized weights are generated and quantized one after another, an expert at a time.
    """
    network = empty_network(config, device, dtype, quantized)
    for name, parameter in network.named_parameters():
        if parameter.dim() == 1 or name.endswith("norm.weight"):
            parameter.fill_(0 if name.endswith(".bias") else 1)
        else:
            # Stacked experts are the only parameters with three axes.
            fan_in = parameter.shape[-1] if parameter.dim() == 3 else math.prod(parameter.shape[1:])
            parameter.normal_(std=fan_in**-0.5)
    for module in network.modules():
        if isinstance(module, QuantizedExperts):
            for number in range(module.experts):
                _fill_randomly(module.expert(number), dtype)
        elif isinstance(module, Fp8Linear | Int8Linear):
            _fill_randomly(module, dtype)
    return network


def _fill_randomly(layer: Fp8Linear | Int8Linear, dtype: torch.dtype) -> None:
    weight = torch.empty(layer.weight.shape, dtype=dtype, device=layer.weight.device)
    layer.fill(weight.normal_(std=layer.in_features**-0.5))


def random_shard(config: ModelConfig, device: torch.device, dtype: torch.dtype, shards: Shards) -> SenseNovaU1:
    """Build a rank's shards of a random network. The whole network is the same for any number of ranks.

    Each tensor of the whole network is generated on the device with a seed of its own.
    """
    network = empty_network(config, device, dtype, shards=shards)
    parameters = {name: parameter.detach().flatten() for name, parameter in network.named_parameters()}
    layout = shard_layout(config, shards)
    for number, (name, whole_slice) in enumerate(checkpoint_layout(config).items()):
        shape, target = whole_slice.shape, layout[name]
        part = shard_of(StoredTensor(Path(), name, dtype, shape, 0, 0), target, shards)
        generator = torch.Generator(device).manual_seed(number)
        whole = torch.empty(shape, dtype=dtype, device=device)
        if len(shape) == 1:
            whole.fill_(0 if name.endswith(".bias") else 1)
        else:
            whole.normal_(std=math.prod(shape[1:]) ** -0.5, generator=generator)
        shard = whole.narrow(part.axis, part.start, part.count).flatten()
        parameters[target.parameter][target.offset : target.offset + shard.numel()].copy_(shard)
    return network


def byte_tokenizer() -> Tokenizer:
    """Return a tokenizer with one token per byte and the special tokens of the prompts, 264 tokens in all."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in THINK_TOKENS])
    return tokenizer


def _random(name: str, target: ParameterSlice, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    if len(target.shape) == 1:
        value = torch.zeros if name.endswith(".bias") else torch.ones
        return value(target.shape, dtype=dtype)
    fan_in = math.prod(target.shape[1:])
    return torch.randn(target.shape, generator=generator).mul_(fan_in**-0.5).to(dtype)
