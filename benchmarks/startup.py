"""Measure what a user waits for: from Enter to the first step, and steps and tokens inside the program.

    python -m benchmarks.startup FOLDER --output benchmarks/results/startup_u1-8b_h100.json

Unless FOLDER exists, a checkpoint of random weights is written there: 35 GB. For each quantization the script runs

1. `sensenova bench startup` for a picture of the first size;
2. one process that compares the mean step inside `Engine.run` with the same steps without it, behind prefixes of the
   same lengths, for a first and a second picture of each size;
3. `sensenova describe` and `generate --think` in a pseudo terminal, and `sensenova bench decode`: tokens a second.

The bars are for an H100. `demo --model demo --device cpu --sizes 128x128` tries the script without a GPU. Exits with 1
if a bar is missed.
"""

import argparse
import json
import os
import pty
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Bar

QUANTIZATIONS = ("off", "fp8")
BEYOND_READING = {"off": 5.0, "fp8": 6.0}
"""Seconds from Enter to the first step, without those of reading the weights."""
PROMPT = "a picture of nothing in particular"
TERMINAL = {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}


def compare_steps(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the steps of pictures in this process, in `Engine.run` and without it."""
    import torch

    from config.settings import ImageSettings
    from config.sizes import TOKEN_PIXELS, parse_size
    from model.bench.bench import seconds_of_each, text_prefix
    from model.engine import Engine
    from model.events import PrefixRead, Statistics
    from model.requests import GenerateRequest
    from model.sampling.denoise import denoise
    from model.sampling.guidance import generate_guidance

    engine = Engine.load(
        options.folder, device=options.device, dtype=options.dtype, quantization=options.one, size=options.sizes[-1]
    )
    backend = engine._runner.model.backend
    found: dict[str, Any] = {}
    for size in options.sizes:
        pixels = parse_size(size)
        assert pixels is not None
        settings = ImageSettings(size=size, num_steps=options.steps)
        pictures: dict[str, float] = {}
        lengths: dict[Any, int] = {}
        for name in ("first", "second", "third"):
            for event in engine.run(GenerateRequest(f"{PROMPT}, the {name}", settings)):
                if isinstance(event, PrefixRead):
                    lengths[event.branch] = event.tokens
                if isinstance(event, Statistics):
                    pictures[name] = event.denoise_seconds / event.steps
        engine.clear_cache()
        tokens = pixels[0] * pixels[1] // TOKEN_PIXELS**2
        alone = []
        for _ in range(2):
            prefixes = {
                branch: text_prefix(backend.network, length, backend.room_for_picture(tokens))
                for branch, length in lengths.items()
            }
            with torch.inference_mode():
                states = backend.denoise_states(prefixes, tokens)
            steps = denoise(backend, states, generate_guidance(settings), pixels, 42, settings)
            alone.append(statistics.mean(seconds_of_each(steps)))
            del prefixes, states
        found[size] = {"prefixes": lengths, "engine_mean_step": pictures, "bench_mean_step": alone}
    return found


def startup(options: argparse.Namespace, quantization: str) -> dict[str, float]:
    """Run `sensenova bench startup`; return the medians by their names."""
    command = ["startup", "--size", options.sizes[0], "--runs", str(options.runs), *flags(options, quantization)]
    return {each["work"]: each["seconds"] for each in bench(command)["figures"]}


def token_rates(options: argparse.Namespace, quantization: str) -> dict[str, float]:
    """Return tokens a second of `bench decode`, and of two commands in a pseudo terminal."""
    count = ["--tokens", str(options.tokens), *flags(options, quantization)]
    rates = {"bench": 1 / bench(["decode", *count])["figures"][0]["seconds"]}
    limit = str(options.tokens)
    with tempfile.TemporaryDirectory() as folder:
        size = ["--size", options.sizes[0], "--num-steps", "1", *flags(options, quantization)]
        in_terminal(["generate", PROMPT, "-o", "made.png", *size], folder)
        think = ["generate", PROMPT, "-o", "thought.png", "--think", "--max-think-tokens", limit, *size]
        ask = ["describe", "made.png", "--max-tokens", limit, *flags(options, quantization)]
        for name, words in (("describe", ask), ("think", think)):
            text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", in_terminal(words, folder))
            rates[name] = float(re.findall(r"([\d.]+) tok/s · peak", text)[-1])
    return rates


def flags(options: argparse.Namespace, quantization: str) -> list[str]:
    """Return the flags of a command that loads the checkpoint."""
    folder = str(options.folder.resolve()) if options.folder.exists() else str(options.folder)
    chosen = ["--device", options.device, "--dtype", options.dtype, "--quantization", quantization]
    return ["--model", folder, *chosen]


def bench(words: list[str]) -> Any:
    """Run `sensenova bench` and return its JSON."""
    command = [sys.executable, "-m", "sensenova_cli", "bench", *words, "--json", "-q"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def in_terminal(words: list[str], folder: str) -> str:
    """Run a command in a pseudo terminal, where progress, think text and answers are drawn live; return its output."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "sensenova_cli", *words],
        cwd=folder,
        env={**os.environ, **TERMINAL, "PYTHONPATH": path, "SENSENOVA_CONFIG_DIR": folder},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        pieces = []
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the last process that had the terminal open has ended
                break
            if not piece:
                break
            pieces.append(piece)
    os.close(ours)
    text = b"".join(pieces).decode(errors="replace")
    if process.returncode:
        raise SystemExit(f"sensenova {' '.join(words)} ended with {process.returncode}:\n{text}")
    return text


def bars_of(options: argparse.Namespace, results: dict[str, dict[str, Any]]) -> list[Bar]:
    """Return all figures that have a bar."""
    bars = []
    for quantization, result in results.items():
        waited, rates = result["startup"], result["tokens_per_second"]
        name = "bf16" if quantization == "off" else quantization
        beyond = waited["sensenova generate, Enter to the first step"] - waited["reading of the weights"]
        bars.append(Bar(f"{name}, Enter to first step, without reading", beyond, BEYOND_READING[quantization], "s"))
        second = waited["second picture, to its first step"]
        bars.append(Bar(f"{name}, second picture {options.sizes[0]}, to its first step", second, 0.25, "s"))
        for size, steps in result["steps"].items():
            for picture in ("first", "second"):
                ratio = steps["engine_mean_step"][picture] / steps["bench_mean_step"][-1]
                bars.append(Bar(f"{name}, {size}, {picture} picture: step in Engine.run / bench", ratio, 1.01, "×"))
        for command in ("describe", "think"):
            ratio = rates[command] / rates["bench"]
            bars.append(Bar(f"{name}, tokens of {command} / bench", ratio, 0.97, "×", at_least=True))
        if quantization == "off":
            ratio = waited["sensenova --help"] / waited["import typer, rich, pydantic"]
            bars.append(Bar("sensenova --help / import typer, rich, pydantic", ratio, 1.8, "×"))
    return bars


def main() -> None:
    parser = harness.parser(
        __doc__ or "", model="u1-8b", models="name of a built-in shape, or demo", device="cuda", dtype="bfloat16"
    )
    parser.add_argument("folder", type=Path, help="the checkpoint; it is written if it does not exist")
    parser.add_argument("--sizes", nargs="+", default=["1024x1024", "2048x2048"])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3, help="processes of each kind")
    parser.add_argument("--quantizations", nargs="+", choices=QUANTIZATIONS, default=list(QUANTIZATIONS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(compare_steps(options)))
        return
    if options.model != "demo" and not options.folder.exists():
        import torch

        from benchmarks.offload import write_random_weights

        clock = time.perf_counter()
        write_random_weights(options.folder, options.model, torch.device(options.device))
        harness.progress(f"wrote {options.folder} in {time.perf_counter() - clock:.0f} s")
    results: dict[str, dict[str, Any]] = {}
    for quantization in options.quantizations:
        results[quantization] = {"startup": startup(options, quantization)}
        harness.progress(f"{quantization}: {json.dumps(results[quantization])}")
        command = [sys.executable, "-m", "benchmarks.startup", *sys.argv[1:], "--one", quantization]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results[quantization]["steps"] = json.loads(done.stdout)
        results[quantization]["tokens_per_second"] = token_rates(options, quantization)
        harness.progress(f"{quantization}: {json.dumps(results[quantization])}")
    bars = bars_of(options, results)
    harness.finish(options, {"results": results}, harness.bars_table(bars), options.device)
    raise SystemExit(not all(bar.met for bar in bars))


if __name__ == "__main__":
    main()
