"""Writing of checkpoints in the official layout: configuration, weight files with their index, tokenizer, settings."""

import contextlib
import json
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor

from config.recommended import RECOMMENDED_FILE
from model.checkpoint.file_names import INDEX_FILE
from model.checkpoint.layout import ParameterSlice, checkpoint_layout
from model.errors import CheckpointError
from model.network.configuration import CONFIG_FILE, parse_config

SCRATCH = ".sensenova-checkpoint-"
"""Beginning of the name of a folder in which a checkpoint is being written."""
SECONDS_UNTIL_ABANDONED = 24 * 3600
"""Age at which such a folder belongs to a program that was killed."""


def write_checkpoint(
    folder: Path,
    fields: Mapping[str, Any],
    numbers: Callable[[str, ParameterSlice], Tensor],
    *,
    dtype: torch.dtype,
    shard_bytes: int = 4 * 2**30,
    tokenizer: Tokenizer | None = None,
    recommended: Mapping[str, Any] | None = None,
) -> None:
    """Write `config.json`, the weights and, if given, a tokenizer and `recommended_settings.json`.

    One weight file is in memory at a time. The folder gets its name when it is complete.

    Args:
        fields: contents of `config.json`.
        numbers: official name and parameter slice → the tensor, in the slice's shape and in `dtype`.
        shard_bytes: largest size of a weight file.
        recommended: contents of `recommended_settings.json`.

    Raises:
        CheckpointError: `folder` exists already.
    """
    layout = checkpoint_layout(parse_config(fields, str(folder)))
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        raise CheckpointError(f"{folder} exists already", "name a folder that does not exist yet")
    _remove_abandoned(folder.parent)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=SCRATCH))
    partial = scratch / folder.name  # unlike mkdtemp's folder, it has the permissions of the user's umask
    partial.mkdir()
    try:
        files = _split(layout, shard_bytes, dtype)
        weight_map = {}
        for number, names in enumerate(files, start=1):
            file = f"model-{number:05}-of-{len(files):05}.safetensors"
            # Not save_file: it ignores the user's umask, and other users could not read the files.
            tensors = {name: numbers(name, layout[name]).contiguous() for name in names}
            (partial / file).write_bytes(save(tensors, {"format": "pt"}))
            weight_map.update(dict.fromkeys(names, file))
        total = sum(target.numel for target in layout.values()) * dtype.itemsize
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


def _remove_abandoned(parent: Path) -> None:
    for scratch in parent.glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError):
            status = scratch.lstat()
            if stat.S_ISDIR(status.st_mode) and time.time() - status.st_mtime > SECONDS_UNTIL_ABANDONED:
                shutil.rmtree(scratch, ignore_errors=True)


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Save a tokenizer in the format that transformers reads."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


def _split(layout: Mapping[str, ParameterSlice], shard_bytes: int, dtype: torch.dtype) -> list[list[str]]:
    """Return the names of the tensors of each weight file."""
    files: list[list[str]] = [[]]
    size = 0
    for name, target in layout.items():
        if files[-1] and size + target.numel * dtype.itemsize > shard_bytes:
            files.append([])
            size = 0
        files[-1].append(name)
        size += target.numel * dtype.itemsize
    return files
