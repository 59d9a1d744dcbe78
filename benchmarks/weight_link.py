"""Measure how fast weights stream from a checkpoint's files to the device, for chunk sizes and numbers of threads.

    python -m benchmarks.weight_link FOLDER --output benchmarks/results/weight_link_h100.json

The layers of the generation tower are loaded into two buffers alternately, as `--offload layers` does, and nothing is
computed meanwhile. Each row is the median of several passes with one chunk size and number of threads. The first row is
the link alone, from page-locked memory; a CPU has no link. The last row has the program's own sizes without page-locked
memory, as on a host that allows none. A first pass, which does not count, reads the files into the system's page cache.
"""

import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness
from model.bench.forecast import measure_bandwidth
from model.checkpoint.tensor_files import stored_tensors
from model.memory.estimate import LEAST
from model.memory.offload import Offload, load_offloaded
from model.memory.weight_stream import READ_BYTES, READERS, WeightStream
from sensenova_cli.render.progress import format_rate

MIB = 2**20
CHUNKS = 8, 16, 32, 64
THREADS = 8, 12, 16
PASSES = 3


def gen_layers(model: Offload) -> list[list[str]]:
    """Return the official names of the tensors of each streamed layer of the generation tower, in order."""
    layers: dict[int, list[str]] = {}
    for name in model.offloaded:
        parts = model.layout[name].parameter.split(".")
        if parts[:2] == ["gen", "blocks"]:
            layers.setdefault(int(parts[2]), []).append(name)
    return [sorted(layers[number]) for number in sorted(layers)]


def measure(
    model: Offload, layers: list[list[str]], chunk_bytes: int, readers: int, page_locked: bool, passes: int
) -> dict[str, Any]:
    """Measure one row, with a new weight stream."""
    tensors = stored_tensors(model.folder)
    stream = WeightStream(tensors, model.network.device, chunk_bytes, readers, page_locked)
    stream.writer = model.stream.writer
    load_all(stream, layers)  # every thread makes its buffers
    seconds = statistics.median(load_all(stream, layers) for _ in range(passes))
    stream.close()
    count = sum(tensors[name].stop - tensors[name].start for names in layers for name in names)
    return {
        "piece_bytes": chunk_bytes,
        "readers": readers,
        "page_locked": page_locked,
        "bytes_per_second": count / seconds,
        "note": stream.note,
    }


def load_all(stream: WeightStream, layers: list[list[str]]) -> float:
    """Load every layer once, and return the seconds. The next layer is requested before the current one is awaited."""
    clock = time.perf_counter()
    following = stream.load(layers[0])
    for names in layers[1:]:
        load, following = following, stream.load(names)
        load.finish()
    following.finish()
    return time.perf_counter() - clock


def main() -> None:
    parser = harness.parser(__doc__, device="cuda")
    parser.add_argument("folder", type=Path, help="a checkpoint, such as the one that benchmarks.offload writes")
    parser.add_argument("--pieces", nargs="+", type=int, default=CHUNKS, metavar="MIB", help="chunk sizes")
    parser.add_argument("--readers", nargs="+", type=int, default=THREADS, metavar="THREADS")
    parser.add_argument("--passes", type=int, default=PASSES)
    options = parser.parse_args()
    device = torch.device(options.device)
    bandwidth = measure_bandwidth(device, None)
    notices = {bandwidth.note}
    model = load_offloaded(options.folder, device, torch.bfloat16, LEAST)
    layers = gen_layers(model)
    load_all(model.stream, layers)
    settings = [(chunk * MIB, readers, True) for chunk in options.pieces for readers in options.readers]
    if bandwidth.link is not None:
        settings.append((READ_BYTES, READERS, False))
    table = harness.table("chunk, MiB", "threads", "page-locked", "")
    link = format_rate(bandwidth.link, "B/s") if bandwidth.link is not None else "none on this device"
    table.add_row("link alone", "", "yes", link)
    rows: list[dict[str, Any]] = []
    for chunk, readers, page_locked in settings:
        harness.progress(f"{chunk // MIB} MiB, {readers} threads")
        row = measure(model, layers, chunk, readers, page_locked, options.passes)
        rows.append(row)
        notices.add(row["note"])
        reached = format_rate(row["bytes_per_second"], "B/s")
        table.add_row(str(chunk // MIB), str(readers), "yes" if page_locked else "no", reached)
    for notice in filter(None, notices):
        harness.progress(f"note: {notice}")
    harness.finish(options, {"link_bytes_per_second": bandwidth.link, "rows": rows}, table, device)


if __name__ == "__main__":
    main()
