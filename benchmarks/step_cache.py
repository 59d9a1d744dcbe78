"""Whether a cached picture's time falls as its layer forwards do.

    python -m benchmarks.step_cache --json benchmarks/results/step_cache_u1-8b_h100.json
    python -m benchmarks.step_cache --model model/demo/checkpoint --device cpu --steps 12 --size 256x256

Random weights of a built-in shape, or a checkpoint's; all steps of a guided picture, from the noise to the last one.
Which steps are reused is forced: as many as each preset ever may, in its pattern. What the first layers add is compared
in all of those, as when the comparison decides, which with random weights says nothing. `every step computed` has the
passes of a cached picture, but nothing to skip.
"""

import argparse
import dataclasses
import platform
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.report import write_report
from config.settings import ImageSettings
from config.sizes import TOKEN_PIXELS, Size, format_size, parse_size
from config.step_cache import PRESETS, CacheOptions
from model.backends.select import select_backend
from model.bench.bench import PROMPT_TOKENS, UNCONDITIONAL_TOKENS, shape_config, text_prefix
from model.checkpoint.loader import load_checkpoint
from model.checkpoint.quantization import quantize_network, resolve_quantization
from model.checkpoint.random_weights import SHAPES, random_network
from model.devices import resolve_device, synchronize
from model.events import Branch
from model.sampling.backend import Backend
from model.sampling.denoise import denoise
from model.sampling.guidance import generate_guidance
from model.sampling.prefill import Prefix
from model.sampling.step_cache import StepCache, StepCaching

WARM_UP_STEPS = 6
"""Of a first picture, in which kernels are compiled and graphs captured for the first time."""


def forced(options: CacheOptions, layers: int, computed: list[bool]) -> StepCaching:
    """A cache that computes exactly these steps, and compares in the others all the same."""
    caching = StepCaching.of(options, layers)

    class Forced(caching.library.CachedContextManager):  # type: ignore[name-defined]
        def similarity(self, *arguments: Any, **named: Any) -> bool:
            super().similarity(*arguments, **named)
            return True

    decision = dataclasses.replace(
        caching.decision,
        residual_diff_threshold=0.999,  # the library compares nothing from 1 on
        max_warmup_steps=1,
        max_continuous_cached_steps=-1,
        steps_computation_mask=[int(each) for each in computed],
    )
    return dataclasses.replace(caching, library=SimpleNamespace(CachedContextManager=Forced), decision=decision)


def pattern(options: CacheOptions, steps: int) -> list[bool]:
    """Which steps a preset computes if the comparison never stops it."""
    behind = [number % (options.longest_run + 1) == options.longest_run for number in range(steps)]
    return ([True] * options.warmup_steps + behind)[:steps]


def draw(backend: Backend, size: Size, settings: ImageSettings, cache: StepCache | None) -> tuple[float, int]:
    """Seconds of a picture's steps, and the layers they computed."""
    network, tokens = backend.network, size[0] * size[1] // TOKEN_PIXELS**2
    prefixes: dict[Branch, Prefix] = {
        "condition": text_prefix(network, PROMPT_TOKENS, tokens),
        "unconditional": text_prefix(network, UNCONDITIONAL_TOKENS, tokens),
    }
    synchronize(network.device)
    clock = time.perf_counter()
    layers = 0
    for step in denoise(backend, prefixes, generate_guidance(settings), size, 42, settings, cache):
        step.wait()
        layers += sum(step.layers.values())
    synchronize(network.device)
    return time.perf_counter() - clock, layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="u1-8b", help=f"{', '.join(SHAPES)}, or a checkpoint folder")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quantization", default="off")
    parser.add_argument("--size", nargs="+", default=["2048x2048"])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = resolve_device(options.device)
    towers = resolve_quantization(options.quantization, device, torch.bfloat16)
    if options.model in SHAPES:
        network = random_network(shape_config(options.model), device, torch.bfloat16)
        quantize_network(network, towers)
    else:
        network = load_checkpoint(Path(options.model), device, torch.bfloat16, quantized=towers)
    backend = select_backend(network, enforce_eager=False)
    layers = network.config.transformer.layers
    settings = ImageSettings(num_steps=options.steps)
    patterns = {"every step computed": (PRESETS["fast"], [True] * options.steps)}
    patterns |= {name: (preset, pattern(preset, options.steps)) for name, preset in PRESETS.items()}
    results: dict[str, list[dict[str, Any]]] = {}
    lines = []
    for size in filter(None, map(parse_size, options.size)):
        warm_up = settings.model_copy(update={"num_steps": WARM_UP_STEPS})
        draw(backend, size, warm_up, None)
        draw(backend, size, warm_up, StepCache(forced(PRESETS["fast"], layers, [True, False] * WARM_UP_STEPS)))
        plain, every_layer = draw(backend, size, settings, None)
        rows = results[format_size(size)] = [{"pattern": "off", "steps_computed": options.steps, "seconds": plain}]
        lines.append(f"{format_size(size)}, {options.steps} guided steps: {plain:.2f} s without a cache")
        for name, (preset, computed) in patterns.items():
            seconds, count = draw(backend, size, settings, StepCache(forced(preset, layers, computed)))
            share, taken = count / every_layer, seconds / plain
            rows.append(
                {
                    "pattern": name,
                    "steps_computed": sum(computed),
                    "seconds": seconds,
                    "share_of_layers": share,
                    "share_of_time": taken,
                    "overhead": taken / share - 1,
                }
            )
            lines.append(
                f"  {name:20} {sum(computed):3} steps computed  {100 * share:5.1f} % of the layers  "
                f"{seconds:7.2f} s  {100 * taken:5.1f} % of the time  overhead {100 * (taken / share - 1):+.1f} %"
            )
    report = {
        "command": f"python -m benchmarks.step_cache --model {options.model} --quantization {options.quantization} "
        f"--size {' '.join(options.size)} --steps {options.steps}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "layers": layers,
        "results": results,
    }
    write_report(report, options.json)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
