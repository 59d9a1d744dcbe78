"""The golden cases of interleaved answers: `data/interleave`, with README in docs/parity.md.

A checkpoint with random weights never opens a picture by itself. Each case therefore has eight rows of `lm_head`, with
which greedy decoding takes the decisions of the case's script.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from config.settings import ImageSettings, TextSettings
from model.engine import LocalEngine
from model.image_files import read_picture
from model.inputs.tokenizer import Tokenizer
from model.requests import InterleaveRequest
from tests.parity.cases import DATA, Case, case_id

FOLDER = DATA / "interleave"
DECISIONS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "<img>", "</img>", "<think>", "</think>")
"""The tokens of the rows, in order."""
HEAD = "language_model.lm_head.weight"


def interleaved_cases() -> list[Case]:
    return json.loads((FOLDER / "cases.json").read_text())


@cache
def _golden() -> Any:
    return safe_open(FOLDER / "golden.safetensors", "pt")


def interleaved_golden(case: Case, name: str) -> Tensor:
    return _golden().get_tensor(f"{case_id(case)}/{name}")


def has_golden(case: Case, name: str) -> bool:
    return f"{case_id(case)}/{name}" in set(_golden().keys())


def interleave_request(case: Case, **text: Any) -> InterleaveRequest:
    """Return the case as one would ask the engine, with other text settings."""
    args = dict(case["args"])
    width, height = args.pop("image_size")
    think, max_tokens = args.pop("think_mode"), args.pop("max_new_tokens", 8192)
    # The reference implementation drew its noise on the CPU.
    common = {"size": f"{width}x{height}", "noise": "cpu", "seed": (case["seeds"] or [42])[0]}
    settings = ImageSettings(think=think, **common, **args)
    images = tuple(read_picture(DATA / name) for name in case["images"])
    text_settings = TextSettings(**{"max_tokens": max_tokens, **text})
    return InterleaveRequest(case["prompt"], images, settings, text_settings, case["system_message"])


def decided_rows(case: Case, head: Tensor, folder: Path) -> Tensor:
    """Return `lm_head`, (vocabulary, hidden_size), with the rows of a case."""
    tokenizer = Tokenizer(folder)
    ids = torch.tensor([tokenizer.encode(token)[0] for token in DECISIONS])
    return head.index_copy(0, ids, interleaved_golden(case, "lm_head_rows").to(head.dtype))


@contextmanager
def deciding(engine: LocalEngine, case: Case) -> Iterator[None]:
    """Put the rows of a case into the network's `lm_head`."""
    weight = engine._runner.model.network.lm_head.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.copy_(decided_rows(case, before.cpu(), engine.checkpoint))
        try:
            yield
        finally:
            weight.copy_(before)


def scripted_checkpoint(case: Case, checkpoint: Path, target: Path) -> Path:
    """Copy a checkpoint to a new folder, with the rows of a case in its `lm_head`."""
    shutil.copytree(checkpoint, target)
    index = json.loads((target / "model.safetensors.index.json").read_text())
    shard = target / index["weight_map"][HEAD]
    tensors = load_file(shard)
    tensors[HEAD] = decided_rows(case, tensors[HEAD], target)
    save_file(tensors, shard, metadata={"format": "pt"})
    return target
