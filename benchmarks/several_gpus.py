"""Tensor and guidance parallelism, measured in one call: full size, random weights, two or more GPUs.

    python -m benchmarks.several_gpus --json benchmarks/results/several_gpus_h100.json
    python -m benchmarks.several_gpus --device cpu --model tiny --steps 4 --tokens 16      # the same on CPU ranks

Each line is measured by ranks of their own, TENSOR×GUIDANCE of them, which are ended if they take too long; the JSON
file is written anew after each. A `+` splits what reads and writes over all of them, as `--gpus` does. All have the
same weights, whatever part of them each rank holds, so that pictures can be compared; how far another order of sums
leads on one GPU is told by `1x1-eager`. Afterwards the golden cases are run on ranks (benchmarks.ranks_parity), and a
session with Ctrl-C and a killed rank (benchmarks.ranks_soak), which takes another five minutes. The table comes last.
What a rank said before it failed lies in `--logs FOLDER`.
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
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.report import write_report

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
SECONDS = 170.0
"""For one line."""
SESSION_SECONDS = 300.0
"""For one session: in that of the golden cases a model is loaded nine times, and its kernels compiled, which takes some
20 s each."""
BARS = (
    ("guided step, better of 2x1 and 1x2", "s", 0.150),
    ("decoding, 2x1", "tok/s", 190.0),
    ("decoding, 1x2+", "tok/s", 190.0),
    ("weights per GPU, 2x1", "GiB", 17.5),
    ("guided picture against one GPU, 1x2", "", 2e-2),
    ("guided picture against one GPU, 2x1", "", 2e-2),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="*", help=f"lines to measure, by default {' '.join(SPECS)}")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="u1-8b", help="u1-8b, u1.5-8b or tiny")
    parser.add_argument("--size", action="append", help="of pictures; the first one is compared and in the table")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--enforce-eager", action="store_true")
    parser.add_argument("--no-sessions", action="store_true", help="leave out the golden cases and the sessions")
    parser.add_argument("--only-sessions", action="store_true", help="nothing but those")
    parser.add_argument("--logs", type=Path, default=None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rank", help=argparse.SUPPRESS)  # "rank port spec folder" of one that is started
    options = parser.parse_args()
    options.size = options.size or (["256x256"] if options.model == "tiny" else ["2048x2048", "1024x1024"])
    if options.rank:
        rank_main(options, *options.rank.split())
        return
    specs = options.specs or [*SPECS, *(SPECS_OF_FOUR if _gpus(options) >= 4 else ())]
    if options.only_sessions:
        specs = []
    report: dict[str, Any] = {
        "command": "python -m benchmarks.several_gpus " + " ".join(sys.argv[1:]),
        "model": options.model,
        "sizes": options.size,
        "steps": options.steps,
        "tokens": options.tokens,
        "environment": {key: value for key, value in os.environ.items() if key.startswith(("NCCL_", "TORCH_NCCL"))},
        "lines": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        logs = options.logs or Path(scratch) / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        for spec in specs:
            report["lines"][spec] = run_line(options, spec, Path(scratch), logs)
            print(f"{spec:12} {json.dumps(report['lines'][spec])}", flush=True)
            compare_pictures(report, Path(scratch))
            write_report(report, options.json)
        if not options.no_sessions:
            for name, words in sessions(options):
                report[name] = run_session(words, logs / f"{name}.log")
                print(f"{name}: {report[name]}", flush=True)
                write_report(report, options.json)
    if specs:
        print_table(report, options.size[0])
    failed = [line for line in report["lines"].values() if "failed" in line]
    failed += [each for each in report.values() if isinstance(each, dict) and each.get("exit code")]
    raise SystemExit(bool(failed))


def _gpus(options: argparse.Namespace) -> int:
    if options.device != "cuda":
        return 2
    import torch

    return torch.cuda.device_count()


def run_line(options: argparse.Namespace, spec: str, scratch: Path, logs: Path) -> dict[str, Any]:
    """Start the ranks of a line and wait for what rank 0 has measured."""
    tensor, guidance, *_ = parse_spec(spec)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = scratch / f"{spec}.json"
    ranks = []
    for rank in range(tensor * guidance):
        words = [sys.executable, "-m", "benchmarks.several_gpus", "--rank", f"{rank} {port} {spec} {scratch}"]
        words += ["--device", options.device, "--model", options.model]
        words += ["--steps", str(options.steps), "--tokens", str(options.tokens)]
        words += [word for size in options.size for word in ("--size", size)]
        words += ["--enforce-eager"] if options.enforce_eager else []
        with (logs / f"{spec}-rank{rank}.log").open("wb") as log:
            ranks.append(subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT))
    end = time.monotonic() + SECONDS
    reason = ""
    while any(rank.poll() is None for rank in ranks):
        failed = [number for number, rank in enumerate(ranks) if rank.poll() not in (None, 0)]
        if failed or time.monotonic() > end:
            reason = f"rank {failed[0]} failed" if failed else f"not done after {SECONDS:.0f} s"
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


def parse_spec(spec: str) -> tuple[int, int, bool, str, bool]:
    """`1x2+-fp8` → tensor ranks, guidance ranks, whether all share what reads and writes, the quantization, and whether
    it is run eagerly, which is `1x2-eager`."""
    sizes, _, way = spec.partition("-")
    tensor, guidance = map(int, sizes.removesuffix("+").split("x"))
    eager = way == "eager"
    return tensor, guidance, sizes.endswith("+"), "off" if eager or not way else way, eager


def rank_main(options: argparse.Namespace, number: str, port: str, spec: str, folder: str) -> None:
    """One rank of a line. Rank 0 writes what it has found, also if it fails after a part of it."""
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
        os._exit(1)  # not through the end of process groups whose other ranks may hang
    os._exit(0)


def measure(options: argparse.Namespace, rank: int, port: int, spec: str, folder: Path) -> Any:
    """What one rank measures, as (name, value)."""
    import torch
    from torch._C._distributed_c10d import TCPStore

    from config.settings import ImageSettings
    from config.sizes import TOKEN_PIXELS, parse_size
    from model.backends.select import select_backend
    from model.bench.bench import _prefixes, _seconds_each, _step_seconds, bench_decode, denoise_states, shape_config
    from model.bench.ceilings import Ceilings, median_seconds
    from model.checkpoint.quantization import QUANTIZED_TOWERS, quantize_network
    from model.checkpoint.random_weights import config_fields, random_part
    from model.devices import peak_memory, reset_peak_memory, synchronize
    from model.network.configuration import parse_config
    from model.parallel.collectives import ProcessGroups
    from model.parallel.launch import threads_each
    from model.parallel.layout import ParallelLayout
    from model.parallel.tensor_parallel import apply_tensor_parallel
    from model.sampling.denoise import denoise
    from model.sampling.guidance import generate_guidance

    tensor, guidance, splits_und, quantization, eager = parse_spec(spec)
    layout = ParallelLayout(tensor, guidance, splits_und)
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
        network = random_part(config, device, torch.bfloat16, layout.shards(rank))
    quantize_network(network, QUANTIZED_TOWERS[quantization])
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
            yield f"{name} step {text} s", round(_step_seconds(backend, size, settings), 5)
            yield f"{name} step {text} peak GiB", round(peak_memory(device) / 2**30, 2)
        reading = median_seconds(partial(_prefixes, network, tokens), device)
        yield "500-token prompt read, both branches s", round(reading, 4)
        if backend.group.splits_heads:
            reading = median_seconds(partial(denoise_states, backend, size), device)
            yield "the same, and its heads brought together s", round(reading, 4)
        for name, scale in (("guided", 4.0), ("unguided", 1.0)):
            settings = ImageSettings(num_steps=PICTURE_STEPS, cfg_scale=scale, noise="cpu")
            drawing = denoise(backend, denoise_states(backend, size), generate_guidance(settings), size, 42, settings)
            *_, last = drawing
            if rank == 0:
                torch.save(last.tokens.float().cpu(), folder / f"{spec}-{name}-{text}.pt")
    if quantization != "fp8":  # which is about drawing
        figure = bench_decode(backend, options.tokens, none)
        yield "decoding tok/s", round(1 / figure.seconds, 1)
    settings = ImageSettings(num_steps=4)
    first = parse_size(options.size[0])
    assert first is not None
    drawing = denoise(backend, denoise_states(backend, first), generate_guidance(settings), first, 42, settings)
    seconds = list(_seconds_each(drawing))
    yield "first steps s", [round(each, 4) for each in seconds]


def collectives(groups: Any, device: Any) -> Any:
    """What sums and exchanges cost by themselves: those of a 2048×2048 step, and of a written token in a graph."""
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


def compare_pictures(report: dict[str, Any], scratch: Path) -> None:
    """How far each line's pictures are from those of one GPU: ‖a − b‖ / ‖b‖."""
    import torch

    for spec, line in report["lines"].items():
        for file in sorted(scratch.glob(f"{spec}-*guided-*.pt")):
            if not file.name.startswith((f"{spec}-guided", f"{spec}-unguided")):
                continue
            name = file.name.removeprefix(f"{spec}-").removesuffix(".pt")
            base = scratch / f"1x1-{name}.pt"
            if spec != "1x1" and base.exists():
                ours, theirs = torch.load(file), torch.load(base)
                line[f"picture {name}, difference from 1x1"] = round(float((ours - theirs).norm() / theirs.norm()), 5)


def sessions(options: argparse.Namespace) -> list[tuple[str, list[str]]]:
    python = [sys.executable, "-m"]
    # A picture of the demo takes a GPU a tenth of a second: too soon over for a Ctrl-C at a random moment.
    steps = "30" if options.device == "cpu" else "400"
    soak = [*python, "benchmarks.ranks_soak", "--device", options.device, "--steps", steps]
    return [
        ("golden-cases", [*python, "benchmarks.ranks_parity", "--device", options.device, "2x1", "1x2", "gpus2"]),
        ("20-turns-tensor-2", [*soak, "--turns", "20", "--kill", "0"]),
        ("20-turns-guidance-2-killed-ranks", [*soak, "--turns", "20", "--tensor-parallel-size", "1",
                                              "--cfg-parallel-size", "2"]),
    ]  # fmt: skip


def run_session(words: list[str], log: Path) -> dict[str, Any]:
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
        "said": said[-3 if code == 0 else -15 :],
    }


def print_table(report: dict[str, Any], size: str) -> None:
    """The lines side by side, and what is asked of them."""
    lines = report["lines"]
    rows = (
        f"guided step {size} s",
        f"unguided step {size} s",
        "decoding tok/s",
        "weights GiB",
        f"guided step {size} peak GiB",
        f"picture guided-{size}, difference from 1x1",
        f"picture unguided-{size}, difference from 1x1",
    )
    print("\n" + f"{'':50}" + "".join(f"{spec:>13}" for spec in lines))
    for row in rows:
        print(f"{row:50}" + "".join(f"{line.get(row, '–'):>13}" for line in lines.values()))
    guided = [lines[spec].get(rows[0]) for spec in ("2x1", "1x2") if spec in lines]
    best = min((each for each in guided if each is not None), default=None)
    tensor = lines.get("2x1", {})
    decoding = tensor.get(rows[2]), lines.get("1x2+", {}).get(rows[2])
    pictures = lines.get("1x2", {}).get(rows[5]), tensor.get(rows[5])
    figures = (best, *decoding, tensor.get(rows[3]), *pictures)
    for (name, unit, bar), figure in zip(BARS, figures, strict=True):
        at_least = unit == "tok/s"
        met = figure is not None and (figure >= bar if at_least else figure <= bar)
        shown = "not measured" if figure is None else f"{figure} {unit}"
        print(f"{name:50}{shown}   bar {bar}: {'met' if met else 'NOT MET'}")
    for spec, line in lines.items():
        if "failed" in line:
            print(f"{spec} FAILED: {line['failed']}; see its `said`")
    for name in report:
        if isinstance(report[name], dict) and "exit code" in report[name]:
            print(f"{name}: {'good' if report[name]['exit code'] == 0 else 'FAILED'}; {report[name]['said'][-1:]}")


if __name__ == "__main__":
    main()
