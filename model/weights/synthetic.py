"""Checkpoints of random numbers in the official layout: to try the program, to test it and to measure loading."""

import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from config.recommended import RECOMMENDED_FILE
from model.errors import CheckpointError
from model.network.configuration import CONFIG_FILE, parse_config
from model.weights.files import INDEX_FILE
from model.weights.layout import Slot, checkpoint_layout

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
"""Arguments of `config_fields` for the published 8B models: U1 with `convolutional_head` False, U1.5 with True."""


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
) -> dict[str, Any]:
    """The contents of a `config.json` of the U1 (MLP head) or U1.5 (convolutional head) architecture."""
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
    """A 3-layer U1.5 of random numbers (about 3 million parameters, 6 MB) with a byte-level tokenizer.

    It draws noise and writes gibberish, through exactly the code that the 8B runs through.
    """
    tokenizer = byte_tokenizer()
    fields = config_fields(
        hidden=128,
        layers=3,
        heads=4,
        kv_heads=2,
        head_dim=32,
        ffn=320,
        vocabulary=tokenizer.get_vocab_size(),
        vision_hidden=64,
    )
    write_checkpoint(folder, fields, dtype=torch.bfloat16, seed=seed, tokenizer=tokenizer, recommended=TINY_SETTINGS)


def write_checkpoint(
    folder: Path,
    fields: Mapping[str, Any],
    *,
    dtype: torch.dtype,
    seed: int = 0,
    shard_bytes: int = 4 * 2**30,
    tokenizer: Tokenizer | None = None,
    recommended: Mapping[str, Any] | None = None,
) -> None:
    """Write `config.json`, sharded random weights with their index and, where given, a tokenizer and the contents of
    `recommended_settings.json`.

    Norm weights are 1, all others normal with standard deviation 1/√fan-in. One shard is held at a time. The
    folder appears under its name only when it is complete.

    Raises:
        CheckpointError: `folder` exists already.
    """
    slots = checkpoint_layout(parse_config(fields, str(folder)))
    generator = torch.Generator().manual_seed(seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        raise CheckpointError(f"{folder} exists already", "name a folder that does not exist yet")
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    partial = scratch / folder.name  # a folder of its own, with the permissions of the user's umask
    partial.mkdir()
    try:
        shards = _split(slots, shard_bytes, dtype)
        weight_map = {}
        for number, names in enumerate(shards, start=1):
            file = f"model-{number:05}-of-{len(shards):05}.safetensors"
            # Not save_file: whatever the user's umask, its files are for nobody else to read.
            tensors = {name: _random(name, slots[name], dtype, generator) for name in names}
            (partial / file).write_bytes(save(tensors, {"format": "pt"}))
            weight_map.update(dict.fromkeys(names, file))
        total = sum(slot.numel for slot in slots.values()) * dtype.itemsize
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (partial / INDEX_FILE).write_text(json.dumps(index, indent=1), encoding="utf-8")
        (partial / CONFIG_FILE).write_text(json.dumps(fields, indent=1), encoding="utf-8")
        if tokenizer is not None:
            write_tokenizer(partial, tokenizer)
        if recommended is not None:
            (partial / RECOMMENDED_FILE).write_text(json.dumps(recommended, indent=2) + "\n", encoding="utf-8")
        partial.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def byte_tokenizer() -> Tokenizer:
    """One token a byte, plus the special tokens of the model's prompts; 264 in all."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in THINK_TOKENS])
    return tokenizer


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Save in the form that transformers reads."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


def _split(slots: Mapping[str, Slot], shard_bytes: int, dtype: torch.dtype) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, slot in slots.items():
        if shards[-1] and size + slot.numel * dtype.itemsize > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += slot.numel * dtype.itemsize
    return shards


def _random(name: str, slot: Slot, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    if len(slot.shape) == 1:
        value = torch.zeros if name.endswith(".bias") else torch.ones
        return value(slot.shape, dtype=dtype)
    fan_in = math.prod(slot.shape[1:])
    return torch.randn(slot.shape, generator=generator).mul_(fan_in**-0.5).to(dtype)
