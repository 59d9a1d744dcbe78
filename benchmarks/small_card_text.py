"""Measure how fast an 8B model writes text in the memory of a small card, on one GPU.

    python -m benchmarks.small_card_text FOLDER --int8 FOLDER-INT8 \\
        --output benchmarks/results/small_card_text_u1-8b.json

Unless FOLDER exists, a checkpoint of random weights in the official layout is written there: 35 GB. Unless the folder
after `--int8` exists, it is converted to int8-all there: 18 GB. Without `--int8`, int8-all reads FOLDER.

Each setting runs in a process of its own, whose memory is limited. It answers a question (`describe`), and it thinks
before a picture (`think`), for which memory is reserved. Random weights write nothing sensible, so a script says which
tokens are written: either new ones, of which prompt lookup finds none, or the prompt's tokens again and again. Passes
and sampling are those of other texts. Exits with 1 if a bar is missed.
"""

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.table import Table
from torch import Tensor

from benchmarks import harness
from benchmarks.harness import Bar
from benchmarks.offload import write_random_weights
from config.settings import ImageSettings, TextSettings
from model.engine import Engine, LocalEngine
from model.events import Statistics
from model.inputs.tokenizer import Tokenizer
from model.requests import AnswerRequest, GenerateRequest, Request
from model.sampling.decode import Sampler, greedy

PROMPT = (
    "A kettle stands on the left side of the stove, a red pan stands on the right side of it, "
    "and behind them a window shows a garden with two apple trees. Describe this kitchen again in the same words."
)
MEMORIES = ("16GiB", "12GiB", "8GiB")
FORMATS = ("off", "int8-all")
TEXTS = ("new", "repeated")
BARS = {("off", "16GiB"): 14, ("int8-all", "16GiB"): 150, ("int8-all", "12GiB"): 100, ("int8-all", "8GiB"): 10}
"""Tokens a second of an answer of new words."""
WARM_UP_TOKENS = 4
"""Tokens of a first text, which compiles kernels and loads the layers that stay."""
MOST_NEW = 50_000
SEED = 1


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one setting in this process."""
    quantization, memory = options.one
    folder = options.int8 if options.int8 and quantization == "int8-all" else options.folder
    result: dict[str, Any] = {}
    for name in ("describe", "think"):
        clock = time.perf_counter()
        settings = {"device": options.device, "quantization": quantization, "gpu_memory": memory}
        engine = Engine.load(folder, requests=[request(name, options.tokens, options.size)], **settings)
        found: dict[str, Any] = {"load_seconds": time.perf_counter() - clock, "weights": engine.description}
        on_gpu = torch.device(engine.device).type == "cuda"
        for kind in TEXTS:
            run(engine, request(name, WARM_UP_TOKENS, options.size), kind)
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            counts = run(engine, request(name, options.tokens, options.size), kind)
            found[kind] = {
                "tokens_per_second": counts.new_tokens / counts.text_seconds,
                "tokens": counts.new_tokens,
                "passes": counts.text_passes,
                "reserved": torch.cuda.max_memory_reserved() if on_gpu else 0,
            }
        result[name] = found
        engine.close()
    return result


def request(name: str, tokens: int, size: str) -> Request:
    """Return a request that writes this number of tokens."""
    if name == "describe":
        return AnswerRequest(PROMPT, settings=TextSettings(max_tokens=tokens))
    settings = ImageSettings(size=size, num_steps=1, cfg_scale=1, think=True, max_think_tokens=tokens)
    return GenerateRequest(PROMPT, settings)


def run(engine: LocalEngine, request: Request, kind: str) -> Statistics:
    """Run a request that writes tokens of this kind, and return its statistics."""
    engine.clear_cache()
    sample = scripted(prompt_tokens(engine) if kind == "repeated" else new_tokens(engine))
    with patch("model.tasks.answer.make_sampler", lambda *_: sample), patch("model.tasks.text.greedy", sample):
        *_, last = engine.run(request)
    assert isinstance(last, Statistics)
    return last


def scripted(script: Sequence[int]) -> Sampler:
    """Return a sampler that takes the next token of a script, after the work of the greedy sampler."""

    def sample(logits: Tensor, tokens: list[int]) -> Tensor:
        return torch.full_like(greedy(logits, tokens), script[len(tokens) % len(script)])

    return sample


def prompt_tokens(engine: LocalEngine) -> list[int]:
    """Return the tokens of the prompt."""
    return Tokenizer(engine.checkpoint).encode(PROMPT)


def new_tokens(engine: LocalEngine) -> list[int]:
    """Return tokens of which no two stand together twice, and no special ones."""
    generator = torch.Generator().manual_seed(SEED)
    count = min(len(Tokenizer(engine.checkpoint)) // 2, MOST_NEW)
    return torch.randperm(count, generator=generator).tolist()


def results_table(results: dict[str, dict[str, Any]]) -> Table:
    """Return a row for each setting and request."""
    table = harness.table(
        "setting", "request", "load, s", "new, tok/s", "repeated, tok/s", "a pass", "reserved, GiB", ""
    )
    for name, result in results.items():
        for task, found in result.items():
            if task == "failed":
                table.add_row(name, f"failed with exit code {found}")
                continue
            new, repeated = (found[kind] for kind in TEXTS)
            a_pass = f"{repeated['tokens'] / repeated['passes']:.1f} tokens" if repeated["passes"] else "resident"
            rates = f"{new['tokens_per_second']:.1f}", f"{repeated['tokens_per_second']:.1f}"
            reserved = max(new["reserved"], repeated["reserved"]) / 2**30
            weights = found["weights"].partition("; ")[2]
            table.add_row(name, task, f"{found['load_seconds']:.1f}", *rates, a_pass, f"{reserved:.2f}", weights)
    return table


def main() -> None:
    parser = harness.parser(__doc__, model="u1-8b", models="name of a built-in shape", device="cuda")
    parser.add_argument("folder", type=Path, help="the checkpoint; it is written if it does not exist")
    parser.add_argument("--int8", type=Path, metavar="FOLDER", help="the same as int8-all; made if it does not exist")
    parser.add_argument("--memories", nargs="+", default=MEMORIES, help="limits of the memory")
    parser.add_argument("--formats", nargs="+", default=FORMATS, choices=("off", "int8", "int8-all", "fp8", "fp8-all"))
    parser.add_argument("--tokens", type=int, default=32, help="tokens of each text")
    parser.add_argument("--size", default="2048x2048", help="size of the picture after thinking")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options)))
        return
    clock = time.perf_counter()
    if not options.folder.exists():
        write_random_weights(options.folder, options.model, torch.device(options.device))
        harness.progress(f"wrote {options.folder} in {time.perf_counter() - clock:.0f} s")
    if options.int8 and not options.int8.exists():
        command = [sys.executable, "-m", "sensenova_cli", "convert", str(options.folder), str(options.int8)]
        subprocess.run([*command, "--quantization", "int8-all", "--yes"], check=True, stdout=sys.stderr)
        harness.progress(f"converted after {time.perf_counter() - clock:.0f} s")
    results: dict[str, dict[str, Any]] = {}
    for quantization, memory in itertools.product(options.formats, options.memories):
        command = [sys.executable, "-m", "benchmarks.small_card_text", *sys.argv[1:], "--one", quantization, memory]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        name = f"{quantization}, {memory}"
        results[name] = json.loads(done.stdout) if done.returncode == 0 else {"failed": done.returncode}
        harness.progress(f"{name}: {json.dumps(results[name])}")
        harness.save(options, {"results": results}, options.device)
    bars = []
    for (quantization, memory), bar in BARS.items():
        found = results.get(f"{quantization}, {memory}")
        if found is not None and options.model == "u1-8b":
            figure = found["describe"]["new"]["tokens_per_second"] if "describe" in found else None
            bars.append(Bar(f"{quantization} in {memory}", figure, bar, "tok/s", at_least=True))
    harness.show(results_table(results))
    harness.finish(options, {"results": results}, harness.bars_table(bars), options.device)
    sys.exit(0 if all(bar.met for bar in bars) else 1)


if __name__ == "__main__":
    main()
