"""Measure the memory and the time of each offload setting for an 8B model on one GPU.

    python -m benchmarks.offload FOLDER --output benchmarks/results/offload_u1-8b_h100.json

Unless FOLDER exists, a checkpoint of random weights in the official layout is written there: 35 GB. Each setting then
runs in a process of its own, limited to its memory. All of them draw the same picture, whose bytes must be equal.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import harness
from config.settings import ImageSettings, TextSettings
from config.sizes import TOKEN_PIXELS, parse_size
from model.checkpoint.layout import ParameterSlice
from model.checkpoint.named_lora import NamedLora
from model.checkpoint.random_weights import SHAPES, byte_tokenizer, config_fields
from model.checkpoint.tensor_files import stored_tensors
from model.checkpoint.writer import write_checkpoint
from model.devices import synchronize
from model.engine import Engine, LocalEngine
from model.errors import DeviceMemoryError
from model.events import DenoisingStep, Picture, PrefixRead, Statistics
from model.memory.estimate import Workload
from model.requests import AnswerRequest, EditRequest, GenerateRequest, Request
from model.trace import Trace

PROMPT = "a picture of nothing in particular"
SETTINGS: dict[str, dict[str, str]] = {
    "off": {"offload": "off"},
    "module": {"offload": "module"},
    "layers-16GiB": {"offload": "layers", "gpu_memory": "16GiB"},
    "layers-8GiB": {"offload": "layers", "gpu_memory": "8GiB"},
    "layers-4GiB": {"offload": "layers", "gpu_memory": "4GiB"},
}
SIZES = ("512x512", "1024x1024", "2048x2048")
STEPS, WARM_UP_STEPS = 12, 3
TOKENS = 24
TURNS = 50
LORA_RANK = 128


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one setting in this process."""
    if options.one == "turns":
        return measure_turns(options.device)
    device = torch.device(options.device)
    host = HostMemory()
    clock = time.perf_counter()
    settings: dict[str, Any] = SETTINGS[options.one]
    engine = Engine.load(options.folder, device=options.device, size=options.sizes[-1], **settings)
    result: dict[str, Any] = {"load_seconds": time.perf_counter() - clock, "placement": engine.weights_summary}
    for size in options.sizes:
        try:
            result[size] = draw(engine, size, device)
        except DeviceMemoryError as error:
            result[size] = {"failed": str(error)}
    result["tokens_per_second"] = decoding_rate(engine)
    result["host_anonymous_peak"] = host.peak()
    if options.one in ("off", "layers-8GiB"):
        try:
            result["two references"] = edit_two(engine, options.sizes[-1], device)
        except DeviceMemoryError as error:
            result["two references"] = {"failed": str(error)}
    if options.one == "off":
        result["lora_seconds"] = merge_lora(engine, options.folder)
    return result


def draw(engine: LocalEngine, size: str, device: torch.device) -> dict[str, Any]:
    """Measure a picture of a text prompt."""
    settings = ImageSettings(size=size, num_steps=STEPS, noise="cpu")
    return run_pictures(engine, GenerateRequest(PROMPT, settings), size, device)


def edit_two(engine: LocalEngine, size: str, device: torch.device) -> dict[str, Any]:
    """Measure an edit of two pictures as large as the result, with `--think`."""
    width, height = parse_size(size) or (0, 0)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, height, width, 3), generator=generator, dtype=torch.uint8)
    images = tuple(Image.fromarray(each.numpy()) for each in pixels)
    settings = ImageSettings(size=size, num_steps=STEPS, think=True, max_think_tokens=8, input_pixels="native")
    return run_pictures(engine, EditRequest("put the first into the second", images, settings), size, device)


def run_pictures(
    engine: LocalEngine, request: GenerateRequest | EditRequest, size: str, device: torch.device
) -> dict[str, Any]:
    """Run a request; return seconds, memory and a checksum of its picture."""
    engine.clear_cache()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    prefixes, steps, digest = [], [], ""
    clock = time.perf_counter()
    trace = Trace()
    for event in engine.run(request, trace):
        now = time.perf_counter()
        if isinstance(event, PrefixRead):
            prefixes.append(event.tokens)
        if isinstance(event, DenoisingStep):
            steps.append(now - clock)
            # These tensors are on the device, whose memory is measured.
            trace.predicted.clear()
            trace.velocities.clear()
        if isinstance(event, Picture):
            digest = hashlib.sha256(trace.pictures[-1].numpy().tobytes()).hexdigest()[:16]
        clock = now
    width, height = parse_size(size) or (0, 0)
    think_tokens = request.settings.max_think_tokens if request.settings.think else 0
    workload = Workload(width * height // TOKEN_PIXELS**2, (prefixes[0] + think_tokens, *prefixes[1:]))
    return {
        "step_seconds": statistics.median(steps[WARM_UP_STEPS:] or steps),
        "first_step_seconds": steps[0],
        "picture": digest,
        "prefixes": prefixes,
        "predicted": engine.predicted_peak(workload),
        "allocated": torch.cuda.max_memory_allocated() if device.type == "cuda" else 0,
        "reserved": torch.cuda.max_memory_reserved() if device.type == "cuda" else 0,
    }


def decoding_rate(engine: LocalEngine) -> float:
    """Answer twice, and return the second answer's tokens per second; the first one may compile kernels."""
    request = AnswerRequest("hello", settings=TextSettings(max_tokens=TOKENS))
    list(engine.run(request))
    statistics_event = list(engine.run(request))[-1]
    assert isinstance(statistics_event, Statistics)
    return statistics_event.new_tokens / statistics_event.text_seconds


def merge_lora(engine: LocalEngine, folder: Path) -> float:
    """Merge a LoRA of all projections of the generation tower, like the 8-step LoRA; return the seconds."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for name, tensor in stored_tensors(folder).items():
        if ("_mot_gen" in name and name.endswith("_proj.weight")) or ("mlp_mot_gen" in name and len(tensor.shape) == 2):
            layer = name.removesuffix(".weight")
            out_features, in_features = tensor.shape
            tensors[f"{layer}.lora_down.weight"] = torch.randn(LORA_RANK, in_features, generator=generator).bfloat16()
            tensors[f"{layer}.lora_up.weight"] = torch.zeros(out_features, LORA_RANK, dtype=torch.bfloat16)
    file = folder.parent / "lora.safetensors"
    save_file(tensors, file)
    clock = time.perf_counter()
    engine.use_loras([NamedLora(str(file), 1.0)])
    synchronize(torch.device(engine.device))
    return time.perf_counter() - clock


def measure_turns(device: str) -> dict[str, Any]:
    """Run turns of all kinds with module offload on the demo; return the range of memory after them."""
    engine = Engine.load("demo", device=device, offload="module")
    settings, text = ImageSettings(size="256x256", num_steps=4), TextSettings(max_tokens=16)
    picture = Image.new("RGB", (256, 256), "red")
    requests: list[Request] = [
        GenerateRequest("a cute cat", settings),
        AnswerRequest("What is this?", (picture,), settings=text),
        EditRequest("change the background to green", (picture,), settings),
        AnswerRequest("What can you do?", settings=text),
    ]
    gpu, host = [], []
    for turn in range(TURNS):
        for _ in engine.run(requests[turn % len(requests)]):
            pass
        gpu.append(torch.cuda.memory_reserved() if device.startswith("cuda") else 0)
        host.append(anonymous_bytes())
    half = slice(TURNS // 5, None)  # loading and compiling at first use are not leaks
    return {
        "turns": TURNS,
        "gpu_reserved": [min(gpu[half]), max(gpu[half])],
        "host_anonymous": [min(host[half]), max(host[half])],
    }


def write_random_weights(
    folder: Path, shape: str | Mapping[str, Any], device: torch.device, shard_bytes: int = 4 * 2**30
) -> None:
    """Write a checkpoint of random weights in the official layout, drawn on the device.

    Args:
        shape: name of a built-in shape, or arguments of `config_fields`.
        shard_bytes: largest size of a weight file. The host's memory holds two copies of one file.
    """
    generator = torch.Generator(device).manual_seed(0)

    def numbers(name: str, parameter: ParameterSlice) -> Tensor:
        if len(parameter.shape) == 1:
            return torch.full(parameter.shape, 0.0 if name.endswith(".bias") else 1.0, dtype=torch.bfloat16)
        fan_in = 1
        for side in parameter.shape[1:]:
            fan_in *= side
        drawn = torch.randn(parameter.shape, generator=generator, device=device, dtype=torch.bfloat16)
        return drawn.mul_(fan_in**-0.5).cpu()

    fields = config_fields(**(SHAPES[shape] if isinstance(shape, str) else shape))
    tokenizer = byte_tokenizer()
    write_checkpoint(folder, fields, numbers, dtype=torch.bfloat16, shard_bytes=shard_bytes, tokenizer=tokenizer)


class HostMemory:
    """The peak of the process's memory without mapped files. A thread samples it every 20 ms."""

    def __init__(self) -> None:
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ended.wait(0.02):
            self._peak = max(self._peak, anonymous_bytes())

    def peak(self) -> int:
        """End the sampling and return the peak in bytes."""
        self._ended.set()
        self._thread.join()
        return self._peak


def anonymous_bytes() -> int:
    """Return the bytes of this process's resident memory without mapped files."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def settings_table(results: dict[str, dict[str, Any]]) -> Table:
    """Return a row for each setting."""
    table = harness.table("setting", "load, s", "host, GiB", "tokens/s", "LoRA, s", "weights")
    for name, result in results.items():
        if "load_seconds" in result:
            host, lora = f"{result['host_anonymous_peak'] / 2**30:.2f}", result.get("lora_seconds")
            row = f"{result['load_seconds']:.1f}", host, f"{result['tokens_per_second']:.1f}"
            table.add_row(name, *row, f"{lora:.2f}" if lora else "", result["placement"])
    return table


def pictures_table(results: dict[str, dict[str, Any]], sizes: Sequence[str]) -> Table:
    """Return a row for each picture of each setting."""
    table = harness.table(
        "setting",
        "picture",
        "step, s",
        "first step, s",
        "predicted, GiB",
        "allocated",
        "reserved",
        "checksum",
    )
    for name, result in results.items():
        if "failed" in result:
            table.add_row(name, f"failed with exit code {result['failed']}")
        for picture in [*sizes, "two references"]:
            found = result.get(picture)
            if found is None:
                continue
            if "failed" in found:
                table.add_row(name, picture, found["failed"])
                continue
            seconds = f"{found['step_seconds']:.4f}", f"{found['first_step_seconds']:.2f}"
            memory = [f"{found[key] / 2**30:.2f}" for key in ("predicted", "allocated", "reserved")]
            table.add_row(name, picture, *seconds, *memory, found["picture"])
    return table


def main() -> None:
    parser = harness.parser(__doc__, model="u1-8b", models="name of a built-in shape", device="cuda")
    parser.add_argument("folder", type=Path, help="the checkpoint; it is written if it does not exist")
    parser.add_argument("--placements", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="picture sizes; memory is reserved for the last one")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options)))
        return
    if not options.folder.exists():
        clock = time.perf_counter()
        write_random_weights(options.folder, options.model, torch.device(options.device))
        harness.progress(f"wrote {options.folder} in {time.perf_counter() - clock:.0f} s")
    results = {}
    for name in [*options.placements, "turns"]:
        command = [sys.executable, "-m", "benchmarks.offload", *sys.argv[1:], "--one", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        results[name] = json.loads(done.stdout) if done.returncode == 0 else {"failed": done.returncode}
        harness.progress(f"{name}: {json.dumps(results[name])}")
    harness.show(settings_table(results))
    harness.finish(options, {"results": results}, pictures_table(results, options.sizes), options.device)


if __name__ == "__main__":
    main()
