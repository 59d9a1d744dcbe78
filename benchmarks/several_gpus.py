"""Measure tensor and guidance parallelism at full size, with random weights, on two or more GPUs.

    python -m benchmarks.several_gpus --output benchmarks/results/several_gpus_h100.json
    python -m benchmarks.several_gpus --device cpu --model tiny --steps 4 --tokens 16      # the same on CPU ranks

A layout such as `2x1` starts TENSOR×GUIDANCE ranks, which are killed if they take too long. A `+` splits the
understanding tower over all ranks, as `--gpus` does. All layouts have the same weights, so their pictures can be
compared; `1x1-eager` shows how much another order of sums changes a picture on one GPU. Then the golden cases run on
ranks (benchmarks.ranks_parity), and a session with Ctrl-C and a killed rank (benchmarks.ranks_soak); both take another
five minutes. The JSON file is rewritten after each layout. `--logs FOLDER` keeps the output of the ranks.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from benchmarks import harness
from benchmarks.harness import Bar
from model.parallel.layout import ParallelLayout

if TYPE_CHECKING:
    import torch

    from model.parallel.collectives import ProcessGroups

TINY: dict[str, Any] = {
    "hidden": 128,
    "layers": 3,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 32,
    "ffn": 320,
    "vocabulary": 301,
    "vision_hidden": 64,
}
PICTURE_STEPS = 8
SPECS = ("1x1", "2x1", "1x2", "1x2+", "1x1-eager", "1x2-fp8", "2x1-fp8-all")
SPECS_OF_FOUR = ("2x2+", "4x1")
LAYOUT_SECONDS = 170.0
SESSION_SECONDS = 300.0
"""Golden cases take longest: a model is loaded nine times, and its kernels are compiled, which takes 20 s each."""


def gpu_count(device: str) -> int:
    """Return the number of GPUs; 2 for CPU ranks."""
    if device != "cuda":
        return 2
    import torch

    return torch.cuda.device_count()


def run_layout(options: argparse.Namespace, spec: str, scratch: Path, logs: Path) -> dict[str, Any]:
    """Start the ranks of a layout, wait for them, and return the figures of rank 0."""
    layout, *_ = parse_spec(spec)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = scratch / f"{spec}.json"
    ranks = []
    for rank in range(layout.size):
        words = [sys.executable, "-m", "benchmarks.several_gpus", "--rank", f"{rank} {port} {spec} {scratch}"]
        words += ["--device", options.device, "--model", options.model]
        words += ["--steps", str(options.steps), "--tokens", str(options.tokens)]
        words += [word for size in options.size for word in ("--size", size)]
        words += ["--enforce-eager"] if options.enforce_eager else []
        with (logs / f"{spec}-rank{rank}.log").open("wb") as log:
            ranks.append(subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT))
    end = time.monotonic() + LAYOUT_SECONDS
    reason = ""
    while any(rank.poll() is None for rank in ranks):
        failed = [number for number, rank in enumerate(ranks) if rank.poll() not in (None, 0)]
        if failed or time.monotonic() > end:
            reason = f"rank {failed[0]} failed" if failed else f"not done after {LAYOUT_SECONDS:.0f} s"
            break
        time.sleep(0.1)
    for process in ranks:
        process.kill()
        process.wait()
    codes = [process.returncode for process in ranks]
    found: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
    if reason or any(codes):
        tails = {}
        for rank in range(len(ranks)):
            lines = (logs / f"{spec}-rank{rank}.log").read_text(errors="replace").strip().splitlines()
            tails[f"rank {rank}"] = lines[-12:]
        found["failed"] = reason or f"exit codes {codes}"
        found["said"] = tails
    return found


def parse_spec(spec: str) -> tuple[ParallelLayout, str, bool]:
    """Parse `1x2+-fp8` or `1x1-eager` into the layout, the quantization and whether nothing is compiled."""
    sizes, _, variant = spec.partition("-")
    tensor, guidance = map(int, sizes.removesuffix("+").split("x"))
    eager = variant == "eager"
    return ParallelLayout(tensor, guidance, sizes.endswith("+")), "off" if eager or not variant else variant, eager


def run_rank(options: argparse.Namespace, number: str, port: str, spec: str, folder: str) -> None:
    """Measure as one rank of a layout. Rank 0 writes each figure at once, so that a later failure loses none."""
    import torch

    found: dict[str, Any] = {}
    try:
        with torch.inference_mode():
            for key, value in measure(options, int(number), int(port), spec, Path(folder)):
                found[key] = value
                print(key, value, flush=True)
                if number == "0":
                    (Path(folder) / f"{spec}.json").write_text(json.dumps(found))
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(1)  # a usual exit would wait for process groups whose other ranks may hang
    os._exit(0)


def measure(options: argparse.Namespace, rank: int, port: int, spec: str, folder: Path) -> Iterator[tuple[str, Any]]:
    """Measure as one rank; yield each figure as (name, value)."""
    import torch
    from torch._C._distributed_c10d import TCPStore

    from config.settings import ImageSettings
    from config.sizes import TOKEN_PIXELS, parse_size
    from model.backends.select import select_backend
    from model.bench.bench import (
        bench_decode,
        denoise_states,
        median_step_seconds,
        prefill_prompts,
        seconds_of_each,
        shape_config,
    )
    from model.bench.ceilings import Ceilings, median_seconds
    from model.checkpoint.quantization import QUANTIZATIONS, quantize_network
    from model.checkpoint.random_weights import config_fields, random_shard
    from model.devices import peak_memory, reset_peak_memory, synchronize
    from model.network.configuration import parse_config
    from model.parallel.collectives import ProcessGroups
    from model.parallel.launch import threads_each
    from model.parallel.tensor_parallel import apply_tensor_parallel
    from model.sampling.denoise import denoise
    from model.sampling.guidance import generate_guidance

    layout, quantization, eager = parse_spec(spec)
    if options.device == "cpu":
        torch.set_num_threads(threads_each(layout.size))
        device = torch.device("cpu")
    else:
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    groups = None
    if layout.size > 1:
        store = TCPStore("127.0.0.1", port, layout.size, is_master=rank == 0)
        groups = ProcessGroups(layout, rank, device, store)
    yield "device", torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    yield "torch", torch.__version__
    if groups is not None:
        yield from collectives(groups, device)
    config = parse_config(config_fields(**TINY), "tiny") if options.model == "tiny" else shape_config(options.model)
    clock = time.perf_counter()
    with torch.inference_mode(False):
        network = random_shard(config, device, torch.bfloat16, layout.shards(rank))
    quantize_network(network, QUANTIZATIONS[quantization])
    if groups is not None:
        apply_tensor_parallel(network, config.transformer.vocabulary, groups)
    synchronize(device)
    yield "seconds to make the weights", round(time.perf_counter() - clock, 1)
    stored = {each.data_ptr(): each.nbytes for each in (*network.parameters(), *network.buffers())}
    yield "weights GiB", round(sum(stored.values()) / 2**30, 3)
    backend = select_backend(network, enforce_eager=options.enforce_eager or eager, groups=groups)
    yield "runtime", f"{type(backend).__name__}{'; ' + backend.note if backend.note else ''}"
    none = Ceilings(1.0, 1.0)
    for text in options.size:
        size = parse_size(text)
        assert size is not None
        tokens = size[0] * size[1] // TOKEN_PIXELS**2
        for name, scale in (("guided", 4.0), ("unguided", 1.0)):
            reset_peak_memory(device)
            settings = ImageSettings(num_steps=options.steps + 1, cfg_scale=scale)
            yield f"{name} step {text} s", round(median_step_seconds(backend, size, settings), 5)
            yield f"{name} step {text} peak GiB", round(peak_memory(device) / 2**30, 2)
        seconds = median_seconds(partial(prefill_prompts, network, tokens), device)
        yield "500-token prompt read, both branches s", round(seconds, 4)
        if backend.group.splits_heads:
            seconds = median_seconds(partial(denoise_states, backend, size), device)
            yield "the same, and its heads brought together s", round(seconds, 4)
        for name, scale in (("guided", 4.0), ("unguided", 1.0)):
            settings = ImageSettings(num_steps=PICTURE_STEPS, cfg_scale=scale, noise="cpu")
            drawing = denoise(backend, denoise_states(backend, size), generate_guidance(settings), size, 42, settings)
            *_, last = drawing
            if rank == 0:
                torch.save(last.tokens.float().cpu(), folder / f"{spec}-{name}-{text}.pt")
    if quantization != "fp8":  # fp8 leaves the understanding tower as it is
        figure = bench_decode(backend, options.tokens, none)
        yield "decoding tok/s", round(1 / figure.seconds, 1)
    settings = ImageSettings(num_steps=4)
    first = parse_size(options.size[0])
    assert first is not None
    drawing = denoise(backend, denoise_states(backend, first), generate_guidance(settings), first, 42, settings)
    yield "first steps s", [round(step, 4) for step in seconds_of_each(drawing)]


def collectives(groups: "ProcessGroups", device: "torch.device") -> Iterator[tuple[str, float]]:
    """Measure collective operations alone: those of a 2048×2048 step, and those of decoding a token in a CUDA graph."""
    import torch

    from model.bench.ceilings import median_seconds

    large = torch.zeros(4096, 4096, dtype=torch.bfloat16, device=device)
    if groups.gen.shard.count > 1:
        yield "sum of 4096×4096 ms", round(1e3 * median_seconds(lambda: groups.gen.all_reduce(large), device), 3)
    if groups.und.shard.count > 1 and device.type == "cuda":
        from model.backends.graphs import capture

        small, repeats = torch.zeros(4096, dtype=torch.bfloat16, device=device), 84

        def sums() -> None:
            for _ in range(repeats):
                groups.und.all_reduce(small)

        with torch.cuda.device(device):
            sums()
            graph = capture(sums)
        yield "84 sums of 4096 in a graph ms", round(1e3 * median_seconds(graph.replay, device), 3)
    if groups.layout.guidance > 1:
        picture = torch.zeros(1, 4096, 3072, dtype=torch.bfloat16, device=device)
        yield "exchange of 4096×3072 ms", round(1e3 * median_seconds(lambda: groups.all_gather(picture), device), 3)
    token = torch.zeros((), dtype=torch.long, device=device)
    yield "agreement on a token ms", round(1e3 * median_seconds(lambda: groups.broadcast(token), device), 3)


def compare_pictures(lines: dict[str, Any], scratch: Path) -> None:
    """Add to each layout the difference of its pictures from those of one GPU: ‖a − b‖ / ‖b‖."""
    import torch

    for spec, line in lines.items():
        for file in sorted(scratch.glob(f"{spec}-*guided-*.pt")):
            if not file.name.startswith((f"{spec}-guided", f"{spec}-unguided")):
                continue
            name = file.name.removeprefix(f"{spec}-").removesuffix(".pt")
            base = scratch / f"1x1-{name}.pt"
            if spec != "1x1" and base.exists():
                ours, theirs = torch.load(file), torch.load(base)
                line[f"picture {name}, difference from 1x1"] = round(float((ours - theirs).norm() / theirs.norm()), 5)


def sessions(device: str) -> list[tuple[str, list[str]]]:
    """Return the names and command lines of the golden cases and the sessions."""
    python = [sys.executable, "-m"]
    # A GPU draws a picture of the demo in a tenth of a second, before a Ctrl-C at a random moment.
    steps = "30" if device == "cpu" else "400"
    soak = [*python, "benchmarks.ranks_soak", "--device", device, "--steps", steps]
    return [
        ("golden-cases", [*python, "benchmarks.ranks_parity", "--device", device, "2x1", "1x2", "gpus2"]),
        ("20-turns-tensor-2", [*soak, "--turns", "20", "--kill", "0"]),
        ("20-turns-guidance-2-killed-ranks", [*soak, "--turns", "20", "--tensor-parallel-size", "1",
                                              "--cfg-parallel-size", "2"]),
    ]  # fmt: skip


def run_session(words: list[str], log: Path) -> dict[str, Any]:
    """Run a command; return its exit code, its seconds and the end of its output."""
    clock = time.perf_counter()
    with log.open("wb") as output:
        try:
            code = subprocess.run(
                words, stdout=output, stderr=subprocess.STDOUT, timeout=SESSION_SECONDS, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    said = log.read_text(errors="replace").strip().splitlines()
    return {
        "exit code": code,
        "seconds": round(time.perf_counter() - clock, 1),
        "said": said[-8 if code == 0 else -15 :],
    }


def layouts_table(lines: dict[str, Any], size: str) -> Table:
    """Return the main figures of the layouts side by side."""
    names = (
        f"guided step {size} s",
        f"unguided step {size} s",
        "decoding tok/s",
        "weights GiB",
        f"guided step {size} peak GiB",
        f"picture guided-{size}, difference from 1x1",
        f"picture unguided-{size}, difference from 1x1",
    )
    rows = [(name, *(str(line.get(name, "–")) for line in lines.values())) for name in names]
    failed = ["failed" if "failed" in line else "" for line in lines.values()]
    if any(failed):
        rows.append(("", *failed))
    return harness.table("", *lines, rows=rows)


def bars(lines: dict[str, Any], size: str) -> list[Bar]:
    """Return the main figures with their bars."""

    def figure(spec: str, name: str) -> float | None:
        found: float | None = lines.get(spec, {}).get(name)
        return found

    guided = [figure(spec, f"guided step {size} s") for spec in ("2x1", "1x2")]
    picture = f"picture guided-{size}, difference from 1x1"
    return [
        Bar("guided step, better of 2x1 and 1x2", min((x for x in guided if x is not None), default=None), 0.150, "s"),
        Bar("decoding, 2x1", figure("2x1", "decoding tok/s"), 190.0, "tok/s", at_least=True),
        Bar("decoding, 1x2+", figure("1x2+", "decoding tok/s"), 190.0, "tok/s", at_least=True),
        Bar("weights per GPU, 2x1", figure("2x1", "weights GiB"), 17.5, "GiB"),
        Bar("guided picture against one GPU, 1x2", figure("1x2", picture), 2e-2),
        Bar("guided picture against one GPU, 2x1", figure("2x1", picture), 2e-2),
    ]


def main() -> None:
    parser = harness.parser(__doc__, model="u1-8b", models="u1-8b, u1.5-8b or tiny", device="cuda")
    parser.add_argument("specs", nargs="*", help=f"layouts to measure (default: {' '.join(SPECS)})")
    parser.add_argument("--size", action="append", help="picture size; the first one is compared and in the table")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--enforce-eager", action="store_true")
    parser.add_argument("--no-sessions", action="store_true", help="leave out the golden cases and the sessions")
    parser.add_argument("--only-sessions", action="store_true", help="run only the golden cases and the sessions")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep the output of ranks and sessions here")
    parser.add_argument("--rank", help=argparse.SUPPRESS)  # "rank port spec folder" of a rank process
    options = parser.parse_args()
    options.size = options.size or (["256x256"] if options.model == "tiny" else ["2048x2048", "1024x1024"])
    if options.rank:
        run_rank(options, *options.rank.split())
        return
    specs = options.specs or [*SPECS, *(SPECS_OF_FOUR if gpu_count(options.device) >= 4 else ())]
    if options.only_sessions:
        specs = []
    result: dict[str, Any] = {
        **harness.facts(),
        "model": options.model,
        "sizes": options.size,
        "steps": options.steps,
        "tokens": options.tokens,
        "environment": {key: value for key, value in os.environ.items() if key.startswith(("NCCL_", "TORCH_NCCL"))},
        "lines": {},
    }
    codes = []
    with tempfile.TemporaryDirectory() as scratch:
        logs = options.logs or Path(scratch) / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        for spec in specs:
            result["lines"][spec] = run_layout(options, spec, Path(scratch), logs)
            harness.progress(f"{spec:12} {json.dumps(result['lines'][spec])}")
            codes.append("failed" in result["lines"][spec])
            compare_pictures(result["lines"], Path(scratch))
            harness.write(options.output, result)
        for name, words in [] if options.no_sessions else sessions(options.device):
            result[name] = run_session(words, logs / f"{name}.log")
            harness.progress(f"{name}: {result[name]}")
            codes.append(bool(result[name]["exit code"]))
            harness.write(options.output, result)
    if specs:
        harness.show(layouts_table(result["lines"], options.size[0]))
        harness.show(harness.bars_table(bars(result["lines"], options.size[0])))
    raise SystemExit(any(codes))


if __name__ == "__main__":
    main()
