"""Check whether the same request gives the same numbers again, and find the first stage that differs.

    python -m benchmarks.repeatability --model FOLDER --output repeatability.json

Each run loads the checkpoint in this process, prefills a prompt, thinks for a fixed number of tokens and takes a few
denoising steps. After every stage it computes a checksum of the stage's tensors. The runs are repeated with each
attention kernel that can prefill: if a stage differs with one kernel only, that kernel is the likely cause. On CUDA,
denoising steps and decoding have kernels of their own.
"""

import hashlib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import harness
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
"""Attention kernels to try, in order. `math` follows the others, because they do not support all shapes and masks."""


def checksum(*tensors: Tensor) -> str:
    """Return a checksum of the bytes of tensors of any type."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.inference_mode()
def stages(folder: Path, device: torch.device, dtype: torch.dtype, think: int, steps: int) -> Iterator[tuple[str, str]]:
    """Load the checkpoint, run one request, and yield the name and checksum of each stage."""
    network, tokenizer = load_checkpoint(folder, device, dtype), Tokenizer(folder)
    backend = select_backend(network, enforce_eager=False)
    layers = range(network.config.transformer.layers)

    def keys_and_values(prefix: Prefix) -> list[Tensor]:
        return [tensor for layer in layers for tensor in prefix.cache.upto(layer, 0)]

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
        yield f"prefix, {branch}", checksum(*keys_and_values(prefixes[branch]))
    condition = prefixes["condition"]
    tokens = []
    for count, token in enumerate(decode(backend, condition, greedy, think, ()), start=1):
        tokens.append(token)
        if count & (count - 1) == 0:  # 1, 2, 4, 8, …
            yield f"keys and values before think token {count}", checksum(*keys_and_values(condition))
    yield "think tokens", checksum(torch.tensor(tokens))
    extend_prefix(network, condition, tokens[-1:] + tokenizer.encode(prompts.AFTER_THINK))
    condition.cache.reserve(room)
    yield "keys and values after thinking", checksum(*keys_and_values(condition))
    steps_taken = denoise(backend, prefixes, generate_guidance(settings), SIZE, 42, settings)
    for number, step in enumerate(steps_taken, start=1):
        yield f"step {number}: velocity", checksum(step.velocity)
        yield f"step {number}: picture", checksum(step.tokens)


def compare(runs: list[list[tuple[str, str]]]) -> list[str]:
    """Return for each later run its first stage whose checksum differs from that of the first run, or `same`."""
    verdicts = []
    for run in runs[1:]:
        differing = (stage for (stage, first), (_, other) in zip(runs[0], run, strict=True) if first != other)
        verdicts.append(next(differing, "same"))
    return verdicts


def main() -> None:
    parser = harness.parser(__doc__, device="auto", dtype="bfloat16")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--think-tokens", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    device = resolve_device(options.device)
    found: dict[str, list[str]] = {}
    table = harness.table("attention kernel", "runs as the first one", "others differ first at")
    for name, kernels in KERNELS.items():
        harness.progress(name)
        with sdpa_kernel(kernels, set_priority=True) if kernels else nullcontext():
            runs = [
                list(stages(options.model, device, DTYPES[options.dtype], options.think_tokens, options.steps))
                for _ in range(options.runs)
            ]
        found[name] = compare(runs)
        others = sorted({verdict for verdict in found[name] if verdict != "same"})
        table.add_row(name, f"{found[name].count('same')} of {len(found[name])}", ", ".join(others))
    result = {"dtype": options.dtype, "think_tokens": options.think_tokens, "first_difference": found}
    harness.finish(options, result, table, device)


if __name__ == "__main__":
    main()
