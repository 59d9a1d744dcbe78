"""Compare int8 with bfloat16 and fp8 on a GPU, for an 8B model with random weights.

    python -m benchmarks.int8_speed --output benchmarks/results/int8_speed_u1-8b_h100.json
    python -m benchmarks.int8_speed --parts capped --folder FOLDER

Three parts:

    kernels    the matrix products of a layer, and the kernels that make their inputs
    resident   guided steps, tokens per second, and each step's relative difference ‖a − b‖ / ‖b‖ of the predicted
               picture from that of the plain network in bfloat16
    capped     steps and tokens per second with all of the memory, and with 12, 8 and 6 GiB of it, each in a process of
               its own. Needs --folder, a checkpoint: best a copy in int8-all, of which half as many bytes are streamed.
               Unless the folder exists, random weights in bfloat16 are written there (35 GB)

`--device cpu --model tiny --size 64x64 --parts resident capped --folder FOLDER` tries the script without a GPU.
"""

import argparse
import gc
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from benchmarks import harness
from benchmarks.numerics import PROMPT_TOKENS, difference, predictor
from benchmarks.offload import decoding_rate, draw, write_random_weights
from config.settings import ImageSettings
from config.sizes import TOKEN_PIXELS, parse_size
from model.backends.select import select_backend, set_plain_operations
from model.bench.bench import bench_decode, median_step_seconds, shape_config, text_prefix
from model.bench.ceilings import measure_ceilings
from model.checkpoint.fp8 import Fp8Linear
from model.checkpoint.int8 import Int8Linear
from model.checkpoint.quantization import LAYERS, QUANTIZATIONS, quantize_network
from model.checkpoint.random_weights import random_network
from model.devices import peak_memory, reset_peak_memory
from model.engine import Engine
from model.network.flow import picture_to_tokens
from model.network.projection import QuantizedRows, RowFormat
from model.sampling.backend import Backend
from model.sampling.denoise import denoise
from model.sampling.guidance import generate_guidance
from model.sampling.schedule import noise_amplitude, starting_noise, time_grid

PARTS = ("kernels", "resident", "capped")
PRODUCTS = {"qkv": (6144, 4096), "o": (4096, 4096), "gate and up": (24576, 4096), "down": (4096, 12288)}
"""Rows and columns of the weights of one layer."""
ROW_COUNTS = (2048, 4096)
"""Rows of half a 2048×2048 picture, as which large pictures run, and of a whole one."""
REPEATS = 20
ALL = "all"
"""The limit that stands for all of the GPU's memory."""
LIMITS = (ALL, "12GiB", "8GiB", "6GiB")
RATIO_BAR, ERROR_BAR = 0.86, 0.03
CAPPED_BARS = {"12GiB": 1.03, "8GiB": 1.10}
"""The longest step, relative to that with all of the memory."""


def seconds(run: Callable[[], object]) -> float:
    """Return the median time of a call on the GPU."""
    for _ in range(3):
        run()
    times = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000)
    return statistics.median(times)


def measure_kernels(device: torch.device) -> dict[str, dict[str, float]]:
    """Return operations per second of each product, and seconds of the kernels that make inputs, by format."""
    from model.backends.kernels import rows as kernels  # needs Triton
    from model.backends.kernels.int8_product import int8_product

    result: dict[str, dict[str, float]] = {}
    for (name, (features, width)), count in itertools.product(PRODUCTS.items(), ROW_COUNTS):
        x = torch.randn(count, width, device=device, dtype=torch.bfloat16)
        weight = (torch.randn(features, width, device=device) * width**-0.5).bfloat16()
        own = result[f"{name}, {count} rows, TFLOP/s"] = {}
        flops = 2 * count * features * width / 1e12
        own["bfloat16"] = flops / seconds(partial(F.linear, x, weight))
        for form, layer_class in LAYERS.items():
            layer = layer_class(features, width, device)
            layer.fill(weight)
            rows = kernels.quantized(x, layer.input_format)
            if isinstance(layer, Fp8Linear):
                own[form] = flops / seconds(partial(layer.multiply, rows))
            else:
                own[form] = flops / seconds(partial(int8_product, rows, layer.weight, layer.scale))
    count, hidden, inner = 4096, 4096, 12288
    formats: dict[str, RowFormat | None] = {"bfloat16": None, "fp8": Fp8Linear.input_format}
    formats["int8"] = Int8Linear(16, hidden, device).input_format
    x, norm = (torch.randn(*size, device=device).bfloat16() for size in ((count, hidden), (hidden,)))
    gate_up = torch.randn(count, 2 * inner, device=device).bfloat16()
    works: dict[str, Callable[[RowFormat | None], Tensor | QuantizedRows | None]] = {
        "norm, µs": lambda form: kernels.normed(x, x, norm, 1e-6, form),
        "gate, µs": lambda form: kernels.gated(gate_up, form),
        "quantize, µs": lambda form: None if form is None else kernels.quantized(x, form),
    }
    for name, work in works.items():
        result[name] = {each: 1e6 * seconds(partial(work, form)) for each, form in formats.items()}
    return result


def measure_resident(options: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each quantization's time of steps and tokens, its memory, and the error of each step."""
    size = parse_size(options.size)
    assert size is not None
    tokens, config = size[0] * size[1] // TOKEN_PIXELS**2, shape_config(options.model)
    ceilings = measure_ceilings(device, torch.bfloat16)
    guided = ImageSettings(num_steps=options.steps + 1)
    unguided = guided.model_copy(update={"num_steps": 8, "cfg_scale": 1.0})
    start = picture_to_tokens(starting_noise(size, 42, device, torch.bfloat16)) * noise_amplitude(tokens, config.flow)
    times = time_grid(unguided.num_steps, unguided.timestep_shift)[:-1]
    seen: list[tuple[Tensor, float]] = []
    plain: list[Tensor] = []
    for name in options.quantizations:
        torch.manual_seed(0)
        network = random_network(config, device, torch.bfloat16)
        if not plain:
            set_plain_operations(network)
            prefix = text_prefix(network, PROMPT_TOKENS, tokens)
            drawing = denoise(Backend(network), {"condition": prefix}, generate_guidance(unguided), size, 42, unguided)
            seen = list(zip([start, *(step.tokens for step in drawing)], times, strict=False))
            predict = predictor(network, prefix, size)
            plain = [predict(x, moment) for x, moment in seen]
        quantize_network(network, QUANTIZATIONS[name])
        torch.cuda.empty_cache()
        backend = select_backend(network, enforce_eager=False)
        own: dict[str, Any] = {"note": backend.note}
        predict = predictor(network, text_prefix(network, PROMPT_TOKENS, tokens), size)
        predicted = [predict(x, moment) for x, moment in seen]
        own["error"] = list(itertools.starmap(difference, zip(predicted, plain, strict=True)))
        del predicted
        reset_peak_memory(device)
        own["guided_step"] = median_step_seconds(backend, size, guided)
        own["peak"] = peak_memory(device)
        own["unguided_step"] = median_step_seconds(backend, size, unguided)
        own["tokens_per_second"] = 1 / bench_decode(backend, options.tokens, ceilings).seconds
        harness.progress(f"{name}: {json.dumps(own)}")
        del network, backend, predict
        gc.collect()  # the next network needs the memory
        torch.cuda.empty_cache()
        yield name, own


def measure_capped(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one limit in this process."""
    limit = {} if options.one == ALL else {"gpu_memory": options.one}
    engine = Engine.load(options.folder, device=options.device, quantization="int8-all", size=options.size, **limit)
    return {
        "weights": engine.weights_summary,
        **draw(engine, options.size, torch.device(options.device)),
        "tokens_per_second": decoding_rate(engine),
    }


def run_capped(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure each limit in a process of its own."""
    if not options.folder.exists():
        clock = time.perf_counter()
        write_random_weights(options.folder, options.model, torch.device(options.device))
        harness.progress(f"wrote {options.folder} in {time.perf_counter() - clock:.0f} s")
        torch.cuda.empty_cache()
    for limit in options.limits:
        own = ["--one", limit, "--folder", str(options.folder), "--size", options.size, "--device", options.device]
        command = [sys.executable, "-m", "benchmarks.int8_speed", *own]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout) if done.returncode == 0 else {"failed": done.returncode}
        harness.progress(f"{limit}: {json.dumps(found)}")
        yield limit, found


def bars(resident: dict[str, dict[str, Any]], capped: dict[str, dict[str, Any]]) -> list[harness.Bar]:
    """Return the figures that have a limit."""
    found = []
    plain, int8 = resident.get("off", {}), resident.get("int8-all", {})
    if plain and int8:
        ratio = int8["guided_step"] / plain["guided_step"]
        found.append(harness.Bar("guided step, int8 against bfloat16", ratio, RATIO_BAR, "times"))
        found.append(harness.Bar("error of a predicted picture, largest of a step", max(int8["error"]), ERROR_BAR))
    whole = capped.get(ALL, {}).get("step_seconds")
    for limit, bar in CAPPED_BARS.items():
        if whole and limit in capped:
            step = capped[limit].get("step_seconds")
            ratio = None if step is None else step / whole
            found.append(harness.Bar(f"step in {limit} against all of the memory", ratio, bar, "times"))
    return found


@torch.inference_mode()
def main() -> None:
    parser = harness.parser(__doc__, model="u1-8b", models="name of a built-in shape", device="cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["kernels", "resident"])
    quantizations = ["off", "int8-all", "fp8-all"]
    parser.add_argument("--quantizations", nargs="+", choices=list(QUANTIZATIONS), default=quantizations)
    parser.add_argument("--folder", type=Path, help="the checkpoint for `capped`; it is written if it does not exist")
    parser.add_argument("--limits", nargs="+", default=list(LIMITS))
    parser.add_argument("--size", default="2048x2048")
    parser.add_argument("--steps", type=int, default=20, help="timed guided steps")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_capped(options)))
        return
    if "capped" in options.parts and options.folder is None:
        parser.error("--parts capped needs --folder")
    device = torch.device(options.device)
    result: dict[str, dict[str, dict[str, Any]]] = {part: {} for part in PARTS}
    if "kernels" in options.parts:
        result["kernels"] = measure_kernels(device)
        harness.save(options, result, device)
        columns = ("bfloat16", "fp8", "int8")
        rows = [(name, *(f"{each[form]:.0f}" for form in columns)) for name, each in result["kernels"].items()]
        harness.show(harness.table("kernel", *columns, rows=rows))
    measured = {"resident": measure_resident(options, device), "capped": run_capped(options)}
    for part in options.parts:
        for name, found in measured.get(part, ()):
            result[part][name] = found
            harness.save(options, result, device)
    harness.finish(options, result, steps_table(result["resident"], result["capped"]), device)
    harness.show(harness.bars_table(bars(result["resident"], result["capped"])))


def steps_table(resident: dict[str, dict[str, Any]], capped: dict[str, dict[str, Any]]) -> Table:
    """Return a row for each quantization and each limit."""
    table = harness.table("weights", "guided step, s", "unguided", "tokens/s", "peak, GiB", "error of a step")
    for name, each in resident.items():
        error = f"{min(each['error']):.4f} … {max(each['error']):.4f}"
        step = f"{each['guided_step']:.4f}", f"{each['unguided_step']:.4f}"
        table.add_row(name, *step, f"{each['tokens_per_second']:.1f}", f"{each['peak'] / 2**30:.1f}", error)
    for limit, each in capped.items():
        if "failed" in each:
            table.add_row(f"int8-all in {limit}", f"failed with exit code {each['failed']}")
            continue
        memory = f"{each['reserved'] / 2**30:.1f}"
        rate = f"{each['tokens_per_second']:.1f}"
        table.add_row(f"int8-all in {limit}", f"{each['step_seconds']:.4f}", "", rate, memory, each["weights"])
    return table


if __name__ == "__main__":
    main()
