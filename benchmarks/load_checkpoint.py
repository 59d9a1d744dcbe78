"""Compare the time of loading a float32 checkpoint into bfloat16 on the CPU with `cat`, and its memory with its size.

    python -m benchmarks.load_checkpoint --output benchmarks/results/load_checkpoint.json

The time of `load_checkpoint` is measured without imports, with the files in the page cache: the median of several new
processes. After each process, `cat` reads the same files into /dev/null. Each process also measures how long the same
number of threads takes to write once to new memory of the parameters' size: every loader needs such memory, but `cat`
does not. Memory is the growth of the peak resident set after the imports.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import harness

LAYERS_PER_GIGABYTE = 9.3
"""Layers of the shape below that take about 1 GB in float32."""


def write_checkpoint(folder: Path, gigabytes: float) -> None:
    """Write a checkpoint of random float32 weights of about this size."""
    import torch

    from model.checkpoint.random_weights import config_fields, write_random_checkpoint

    fields = config_fields(
        hidden=1024,
        layers=round(gigabytes * LAYERS_PER_GIGABYTE),
        heads=16,
        kv_heads=4,
        head_dim=64,
        ffn=3072,
        vocabulary=4096,
        vision_hidden=256,
    )
    write_random_checkpoint(folder, fields, dtype=torch.float32, shard_bytes=700 * 2**20)


def load_once(folder: Path) -> dict[str, float]:
    """Load in this process; return seconds, bytes of the parameters, and peak bytes above the imports."""
    import psutil
    import torch

    from model.checkpoint.loader import load_checkpoint
    from model.checkpoint.tensor_files import READERS
    from model.devices import peak_memory

    device = torch.device("cpu")
    before = psutil.Process().memory_info().rss
    clock = time.perf_counter()
    network = load_checkpoint(folder, device, torch.bfloat16)
    seconds = time.perf_counter() - clock
    size = sum(parameter.nbytes for parameter in network.parameters())
    peak = peak_memory(device) - before
    parts = torch.empty(size, dtype=torch.uint8).chunk(READERS)
    clock = time.perf_counter()
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(torch.Tensor.zero_, parts))
    touch = time.perf_counter() - clock
    return {"seconds": seconds, "parameter_bytes": size, "peak_bytes": peak, "touch_seconds": touch}


def cat(folder: Path) -> float:
    """Read the weights with `cat`; return its seconds."""
    files = sorted(str(file) for file in folder.glob("*.safetensors"))
    clock = time.perf_counter()
    subprocess.run(["cat", *files], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - clock


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keep the checkpoint in this folder and use it again")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(load_once(options.child)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "synthetic"
        if not folder.exists():
            write_checkpoint(folder, options.gigabytes)
        runs = []
        for run in range(options.runs + 1):
            harness.progress(f"run {run} of {options.runs}")
            command = [sys.executable, "-m", "benchmarks.load_checkpoint", "--child", str(folder)]
            child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs.append({**json.loads(child.stdout), "cat_seconds": cat(folder)})
        del runs[0]  # it warmed the page cache
        stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    result = {
        "stored_bytes": stored,
        "parameter_bytes": runs[0]["parameter_bytes"],
        "load_seconds": statistics.median(run["seconds"] for run in runs),
        "cat_seconds": statistics.median(run["cat_seconds"] for run in runs),
        "touch_seconds": statistics.median(run["touch_seconds"] for run in runs),
        "load_over_cat": statistics.median(run["seconds"] / run["cat_seconds"] for run in runs),
        "peak_over_size": max(run["peak_bytes"] / run["parameter_bytes"] for run in runs),
        "runs": runs,
    }
    rows = [
        ("stored in float32", f"{stored / 1e9:.2f} GB"),
        ("loaded in bfloat16", f"{result['parameter_bytes'] / 1e9:.2f} GB"),
        ("load", f"{result['load_seconds']:.3f} s"),
        ("cat", f"{result['cat_seconds']:.3f} s"),
        ("load / cat", f"{result['load_over_cat']:.2f}"),
        ("writing once to new memory", f"{result['touch_seconds']:.3f} s"),
        ("peak resident set / bfloat16 size", f"{result['peak_over_size']:.2f}"),
    ]
    harness.finish(options, result, harness.table("", "", rows=rows))


if __name__ == "__main__":
    main()
