"""Whether the same request gives the same numbers again, and if not, which stage differs first.

    python -m benchmarks.repeatability --checkpoint FOLDER --json benchmarks/results/repeatability.json

Loads the checkpoint several times in one process, as the runs that once differed did, and each time reads a prompt,
thinks for a fixed number of tokens and takes a few denoising steps. After every stage a checksum is taken of what it
left behind. This is repeated for each attention kernel that prefixes can be read with: a stage that differs under one
kernel only points at that kernel, one that differs under all of them does not. Pictures and written tokens have kernels
of their own on CUDA.
"""

import argparse
import hashlib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.report import write_report
from config.settings import ImageSettings
from model.backends.select import select_backend
from model.checkpoint.loader import load_checkpoint
from model.devices import DTYPES, resolve_device
from model.events import Branch
from model.inputs import prompts
from model.inputs.token_sequence import build_sequence
from model.inputs.tokenizer import Tokenizer
from model.sampling.decode import decode, greedy
from model.sampling.denoise import denoise
from model.sampling.guidance import generate_guidance
from model.sampling.prefill import Prefix, extend_prefix, prefill

SIZE = (256, 256)
KERNELS = {
    "chosen by PyTorch": [],
    "flash, else math": [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH],
    "cudnn, else math": [SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH],
    "efficient, else math": [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    "math": [SDPBackend.MATH],
}
"""Attention kernels to try, in order; not every one takes every shape and mask on every device."""


def checksum(*tensors: Tensor) -> str:
    """Of the bytes of tensors of any type."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def kept(prefix: Prefix) -> list[Tensor]:
    """The keys and values of a prefix, without the room behind them."""
    cache = prefix.cache
    return [store[:, :, : cache.length] for store in (*cache._keys, *cache._values)]


@torch.inference_mode()
def stages(folder: Path, device: torch.device, dtype: torch.dtype, think: int, steps: int) -> Iterator[tuple[str, str]]:
    """(stage, checksum) of one run on a checkpoint loaded anew."""
    network, tokenizer = load_checkpoint(folder, device, dtype), Tokenizer(folder)
    backend = select_backend(network, enforce_eager=False)
    yield "weights", checksum(*network.parameters())
    settings = ImageSettings(num_steps=steps, think=True)
    texts: dict[Branch, str] = {
        "condition": prompts.generate_prompt("a red circle on a blue background", think=True),
        "unconditional": prompts.unconditional_prompt(),
    }
    room = SIZE[0] * SIZE[1] // 1024
    prefixes: dict[Branch, Prefix] = {}
    for branch, text in texts.items():
        sequence = build_sequence(text, [], tokenizer, device)
        prefixes[branch] = prefill(network, sequence, [], room)
        yield f"prefix, {branch}", checksum(*kept(prefixes[branch]))
    condition = prefixes["condition"]
    tokens = []
    for count, token in enumerate(decode(backend, condition, greedy, think, ()), start=1):
        tokens.append(token)
        if count & (count - 1) == 0:  # 1, 2, 4, 8, …
            yield f"keys and values before think token {count}", checksum(*kept(condition))
    yield "think tokens", checksum(torch.tensor(tokens))
    extend_prefix(network, condition, tokens[-1:] + tokenizer.encode(prompts.AFTER_THINK))
    condition.cache.reserve(room)
    yield "keys and values after thinking", checksum(*kept(condition))
    steps_taken = denoise(backend, prefixes, generate_guidance(settings), SIZE, 42, settings)
    for number, step in enumerate(steps_taken, start=1):
        yield f"step {number}: velocity", checksum(step.velocity)
        yield f"step {number}: picture", checksum(step.tokens)


def compare(runs: list[list[tuple[str, str]]]) -> list[str]:
    """For each run after the first: the first stage whose checksum is another one, or `same`."""
    verdicts = []
    for run in runs[1:]:
        differing = (stage for (stage, first), (_, other) in zip(runs[0], run, strict=True) if first != other)
        verdicts.append(next(differing, "same"))
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16")
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--think-tokens", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = resolve_device(options.device)
    found: dict[str, list[str]] = {}
    for name, kernels in KERNELS.items():
        with sdpa_kernel(kernels, set_priority=True) if kernels else nullcontext():
            runs = [
                list(stages(options.checkpoint, device, DTYPES[options.dtype], options.think_tokens, options.steps))
                for _ in range(options.runs)
            ]
        found[name] = compare(runs)
        print(f"{name:20} {found[name].count('same')} of {len(found[name])} runs as the first one", end="")
        others = sorted({verdict for verdict in found[name] if verdict != "same"})
        print(f"; others differ from: {', '.join(others)}" if others else "")
    report = {
        "command": f"python -m benchmarks.repeatability --checkpoint {options.checkpoint.name}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "dtype": options.dtype,
        "think_tokens": options.think_tokens,
        "first_difference": found,
    }
    write_report(report, options.json)


if __name__ == "__main__":
    main()
