"""How fast weights come from a checkpoint's files to the device: which pieces, and how many threads to read them.

    python -m benchmarks.weight_link FOLDER --json weight_link.json

Has the drawing tower's layers brought into two slots in turn, as `--offload layers` does, with nothing computed beside
it: one row for each piece size and number of threads, with the median of some passes. The first line is what the link
carries alone, from page-locked memory; a CPU has none. The last one, of the sizes that the program takes, does without
page-locked memory, as on a host that gives none. The first pass of all, not told, reads the files into the system's
page cache, where there is room for them.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import write_report
from model.bench.forecast import measure_supply
from model.checkpoint.safetensors_files import stored_tensors
from model.memory.estimate import MIN_BUFFERS, OffloadPlan
from model.memory.offload import Offload, load_offloaded
from model.memory.weight_stream import READ_BYTES, READERS, WeightStream
from sensenova_cli.render.progress import rate

MIB = 2**20
PIECES = 8, 16, 32, 64
THREADS = 8, 12, 16
PASSES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a checkpoint, such as the one that benchmarks.offload writes")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pieces", nargs="+", type=int, default=PIECES, metavar="MIB")
    parser.add_argument("--readers", nargs="+", type=int, default=THREADS, metavar="THREADS")
    parser.add_argument("--passes", type=int, default=PASSES)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    supply = measure_supply(device, None)
    link = supply.link
    if supply.note:
        print(f"note: {supply.note}", file=sys.stderr)
    print(f"page-locked copy: {rate(link, 'B/s')}" if link is not None else "page-locked copy: no link here")
    model = load_offloaded(
        arguments.folder, device, torch.bfloat16, OffloadPlan("layers", MIN_BUFFERS, whole_head=False)
    )
    layers = drawing_layers(model)
    bring(model.stream, layers)
    settings = [(piece * MIB, readers, True) for piece in arguments.pieces for readers in arguments.readers]
    if link is not None:
        settings.append((READ_BYTES, READERS, False))
    rows: list[dict[str, Any]] = []
    for piece, readers, page_locked in settings:
        rows.append(measure(model, layers, piece, readers, page_locked, arguments.passes))
        how = "" if page_locked else ", not page-locked"
        told = rate(rows[-1]["bytes_per_second"], "B/s")
        print(f"{piece // MIB:3} MiB, {readers:3} threads{how}: {told}", flush=True)
        if rows[-1]["note"]:
            print(f"note: {rows[-1]['note']}", file=sys.stderr)
    report = {
        "command": "python -m benchmarks.weight_link " + " ".join(sys.argv[1:]),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "link_bytes_per_second": link,
        "rows": rows,
    }
    write_report(report, arguments.json)


def drawing_layers(model: Offload) -> list[list[str]]:
    """The official names of each layer's streamed tensors, in the order of the layers."""
    layers: dict[int, list[str]] = {}
    for name in model.elsewhere:
        parts = model.layout[name].parameter.split(".")
        if parts[:2] == ["gen", "blocks"]:
            layers.setdefault(int(parts[2]), []).append(name)
    return [sorted(layers[number]) for number in sorted(layers)]


def measure(
    model: Offload, layers: list[list[str]], piece_bytes: int, readers: int, page_locked: bool, passes: int
) -> dict[str, Any]:
    """One setting, in a stream of its own."""
    tensors = stored_tensors(model.folder)
    stream = WeightStream(tensors, model.network.device, piece_bytes, readers, page_locked)
    stream.filling = model.stream.filling
    bring(stream, layers)  # every thread has its buffers then
    seconds = statistics.median(bring(stream, layers) for _ in range(passes))
    stream.close()
    count = sum(tensors[name].stop - tensors[name].start for names in layers for name in names)
    return {
        "piece_bytes": piece_bytes,
        "readers": readers,
        "page_locked": page_locked,
        "bytes_per_second": count / seconds,
        "note": stream.note,
    }


def bring(stream: WeightStream, layers: list[list[str]]) -> float:
    """Seconds of one pass, in which the next layer is always asked for before one is waited for."""
    clock = time.perf_counter()
    ahead = stream.load(layers[0])
    for names in layers[1:]:
        load, ahead = ahead, stream.load(names)
        load.finish()
    ahead.finish()
    return time.perf_counter() - clock


if __name__ == "__main__":
    main()
