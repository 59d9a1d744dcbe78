"""What placements of an 8B model take, in memory and in time, on one GPU.

    python -m benchmarks.offload FOLDER --json benchmarks/results/offload_u1-8b_h100.json

Writes a checkpoint of random weights in the official layout to FOLDER, 35 GB, unless one is there; then measures each
placement in a process of its own, limited to the memory that it is for. Each draws the same picture, whose bytes must
not differ.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.report import write_report
from config.settings import ImageSettings, TextSettings
from config.sizes import TOKEN_PIXELS, parse_size
from model.checkpoint.layout import ParameterSlice
from model.checkpoint.named_lora import NamedLora
from model.checkpoint.random_weights import SHAPES, byte_tokenizer, config_fields
from model.checkpoint.safetensors_files import stored_tensors
from model.checkpoint.writer import write_checkpoint
from model.devices import synchronize
from model.engine import Engine, LocalEngine
from model.errors import DeviceMemoryError
from model.events import DenoisingStep, Picture, PrefixRead, Statistics
from model.memory.estimate import Workload
from model.requests import AnswerRequest, EditRequest, GenerateRequest, Request
from model.trace import Trace

PROMPT = "a picture of nothing in particular"
PLACEMENTS: dict[str, dict[str, str]] = {
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=SHAPES, default="u1-8b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--placements", nargs="+", choices=PLACEMENTS, default=list(PLACEMENTS))
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="the last one is the one that is timed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return
    if not arguments.folder.exists():
        clock = time.perf_counter()
        write_random_weights(arguments.folder, arguments.model, torch.device(arguments.device))
        print(f"wrote {arguments.folder} in {time.perf_counter() - clock:.0f} s", file=sys.stderr)
    results = {}
    for name in [*arguments.placements, "turns"]:
        command = [sys.executable, "-m", "benchmarks.offload", *sys.argv[1:], "--one", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        results[name] = json.loads(done.stdout) if done.returncode == 0 else {"failed": done.returncode}
        print(f"{name}: {json.dumps(results[name])}", file=sys.stderr)
    on_cuda = arguments.device.startswith("cuda")
    report = {
        "command": "python -m benchmarks.offload " + " ".join(sys.argv[1:]),
        "device": torch.cuda.get_device_name() if on_cuda else "cpu",
        "torch": torch.__version__,
        "results": results,
    }
    write_report(report, arguments.json)
    print_table(results, arguments.sizes)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One placement, in this process alone."""
    if arguments.one == "turns":
        return measure_turns(arguments.device)
    offload_plan = PLACEMENTS[arguments.one]
    limit = offload_plan.get("gpu_memory")
    device = torch.device(arguments.device)
    host = HostMemory()
    clock = time.perf_counter()
    engine = Engine.load(
        arguments.folder,
        device=arguments.device,
        offload=offload_plan["offload"],
        gpu_memory=limit,
        size=arguments.sizes[-1],
    )
    result: dict[str, Any] = {"load_seconds": time.perf_counter() - clock, "placement": engine.weights_summary}
    for size in arguments.sizes:
        try:
            result[size] = draw(engine, size, device)
        except DeviceMemoryError as error:
            result[size] = {"failed": str(error)}
    result["tokens_per_second"] = write(engine)
    result["host_anonymous_peak"] = host.peak()
    if arguments.one in ("off", "layers-8GiB"):
        try:
            result["two references"] = edit_two(engine, arguments.sizes[-1], device)
        except DeviceMemoryError as error:
            result["two references"] = {"failed": str(error)}
    if arguments.one == "off":
        result["lora_seconds"] = merge_lora(engine, arguments.folder)
    return result


def draw(engine: LocalEngine, size: str, device: torch.device) -> dict[str, Any]:
    settings = ImageSettings(size=size, num_steps=STEPS, noise="cpu")
    return run_pictures(engine, GenerateRequest(PROMPT, settings), size, device)


def edit_two(engine: LocalEngine, size: str, device: torch.device) -> dict[str, Any]:
    """Two references as large as the picture, thinking first."""
    width, height = parse_size(size) or (0, 0)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, height, width, 3), generator=generator, dtype=torch.uint8)
    images = tuple(Image.fromarray(each.numpy()) for each in pixels)
    settings = ImageSettings(size=size, num_steps=STEPS, think=True, max_think_tokens=8, input_pixels="native")
    return run_pictures(engine, EditRequest("put the first into the second", images, settings), size, device)


def run_pictures(
    engine: LocalEngine, request: GenerateRequest | EditRequest, size: str, device: torch.device
) -> dict[str, Any]:
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
            # They are on the device, whose memory is measured here.
            trace.predicted.clear()
            trace.velocities.clear()
        if isinstance(event, Picture):
            digest = hashlib.sha256(trace.pictures[-1].numpy().tobytes()).hexdigest()[:16]
        clock = now
    width, height = parse_size(size) or (0, 0)
    written = request.settings.max_think_tokens if request.settings.think else 0
    work = Workload(width * height // TOKEN_PIXELS**2, (prefixes[0] + written, *prefixes[1:]))
    return {
        "step_seconds": statistics.median(steps[WARM_UP_STEPS:] or steps),
        "first_step_seconds": steps[0],
        "picture": digest,
        "prefixes": prefixes,
        "predicted": engine.predicted_peak(work),
        "allocated": torch.cuda.max_memory_allocated() if device.type == "cuda" else 0,
        "reserved": torch.cuda.max_memory_reserved() if device.type == "cuda" else 0,
    }


def write(engine: LocalEngine) -> float:
    """The rate of the second of two answers; kernels may be compiled in the first."""
    request = AnswerRequest("hello", settings=TextSettings(max_tokens=TOKENS))
    list(engine.run(request))
    told = list(engine.run(request))[-1]
    assert isinstance(told, Statistics)
    return told.new_tokens / told.text_seconds


def merge_lora(engine: LocalEngine, folder: Path) -> float:
    """A LoRA of all projections of the gen tower, as the 8-step one is; on the resident model."""
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
    """Alternating turns with module offload on the demo: memory after each."""
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
    half = slice(TURNS // 5, None)  # what is loaded and compiled at first use is no leak
    return {
        "turns": TURNS,
        "gpu_reserved": [min(gpu[half]), max(gpu[half])],
        "host_anonymous": [min(host[half]), max(host[half])],
    }


def write_random_weights(folder: Path, shape: str, device: torch.device) -> None:
    """In the official layout, drawn on the device."""
    generator = torch.Generator(device).manual_seed(0)

    def numbers(name: str, slot: ParameterSlice) -> Tensor:
        if len(slot.shape) == 1:
            return torch.full(slot.shape, 0.0 if name.endswith(".bias") else 1.0, dtype=torch.bfloat16)
        fan_in = 1
        for side in slot.shape[1:]:
            fan_in *= side
        drawn = torch.randn(slot.shape, generator=generator, device=device, dtype=torch.bfloat16)
        return drawn.mul_(fan_in**-0.5).cpu()

    write_checkpoint(folder, config_fields(**SHAPES[shape]), numbers, dtype=torch.bfloat16, tokenizer=byte_tokenizer())


class HostMemory:
    """The most that the process held that is not a file's, looked at again and again."""

    def __init__(self) -> None:
        self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self._peak = max(self._peak, anonymous_bytes())

    def peak(self) -> int:
        self._over.set()
        self._thread.join()
        return self._peak


def anonymous_bytes() -> int:
    """Of this process's resident memory the part that is not mapped files."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def print_table(results: dict[str, dict[str, Any]], sizes: list[str]) -> None:
    gib = 2**30
    for name, result in results.items():
        if "failed" in result or name == "turns":
            print(name, json.dumps(result))
            continue
        print(
            f"{name:13} {result['placement']}; load {result['load_seconds']:.1f} s; "
            f"host {result['host_anonymous_peak'] / gib:.2f} GiB; {result['tokens_per_second']:.1f} tok/s; "
            f"LoRA {result.get('lora_seconds', 0):.2f} s"
        )
        for size in [*sizes, "two references"]:
            if "failed" in result.get(size, {}):
                print(f"  {size:15} {result[size]['failed']}")
            elif size in result:
                each = result[size]
                print(
                    f"  {size:15} step {each['step_seconds']:.4f} s (first {each['first_step_seconds']:.2f}); "
                    f"predicted {each['predicted'] / gib:.2f}, allocated {each['allocated'] / gib:.2f}, "
                    f"reserved {each['reserved'] / gib:.2f} GiB; {each['picture']}"
                )


if __name__ == "__main__":
    main()
