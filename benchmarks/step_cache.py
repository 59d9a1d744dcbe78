"""Compare the time that a step cache saves with the layers that it skips.

    python -m benchmarks.step_cache --output benchmarks/results/step_cache_u1-8b_h100.json
    python -m benchmarks.step_cache --model model/demo/checkpoint --device cpu --dtype float32 --steps 12 --size 256x256

The weights are random, of a built-in shape, or those of a checkpoint. Times are those of all steps of a guided picture.
The reused steps are fixed: as many as each preset allows, in its pattern, because differences between the first layers
of random weights are meaningless. The comparison still runs in these steps, so its time counts. `every step computed`
runs the code of a cached picture but skips nothing.
"""

import dataclasses
import time
from types import SimpleNamespace
from typing import Any

from benchmarks import harness
from benchmarks.timed_pictures import open_backend, parse_options
from config.settings import ImageSettings
from config.sizes import TOKEN_PIXELS, Size, format_size, parse_size
from config.step_cache import PRESETS, CacheOptions
from model.bench.bench import PROMPT_TOKENS, UNCONDITIONAL_TOKENS, text_prefix
from model.devices import synchronize
from model.events import Branch
from model.sampling.backend import Backend
from model.sampling.denoise import denoise
from model.sampling.guidance import generate_guidance
from model.sampling.prefill import Prefix
from model.sampling.step_cache import StepCache, StepCacheConfig

WARM_UP_STEPS = 6
"""Steps of a first picture, during which kernels are compiled and graphs captured."""


def forced(options: CacheOptions, layers: int, computed: list[bool]) -> StepCacheConfig:
    """Return the configuration of a cache that computes exactly these steps, but still compares in the others."""
    caching = StepCacheConfig.of(options, layers)

    class Forced(caching.library.CachedContextManager):  # type: ignore[name-defined]
        def similarity(self, *arguments: Any, **named: Any) -> bool:
            super().similarity(*arguments, **named)
            return True

    decision = dataclasses.replace(
        caching.cache_config,
        residual_diff_threshold=0.999,  # the library compares nothing from 1 on
        max_warmup_steps=1,
        max_continuous_cached_steps=-1,
        steps_computation_mask=[int(each) for each in computed],
    )
    return dataclasses.replace(caching, library=SimpleNamespace(CachedContextManager=Forced), cache_config=decision)


def pattern(options: CacheOptions, steps: int) -> list[bool]:
    """Return for each step whether a preset computes it, if every comparison allows reuse."""
    after_warmup = [number % (options.longest_run + 1) == options.longest_run for number in range(steps)]
    return ([True] * options.warmup_steps + after_warmup)[:steps]


def draw(backend: Backend, size: Size, settings: ImageSettings, cache: StepCache | None) -> tuple[float, int]:
    """Draw a picture; return the seconds of its steps and the number of layers they computed."""
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
    options = parse_options(__doc__)
    backend = open_backend(options)
    network = backend.network
    layers = network.config.transformer.layers
    settings = ImageSettings(num_steps=options.steps)
    patterns = {"every step computed": (PRESETS["fast"], [True] * options.steps)}
    patterns |= {name: (preset, pattern(preset, options.steps)) for name, preset in PRESETS.items()}
    results: dict[str, list[dict[str, Any]]] = {}
    table = harness.table("picture", "pattern", "steps computed", "layers", "seconds", "time", "overhead")
    for size in filter(None, map(parse_size, options.size)):
        name = format_size(size)
        harness.progress(name)
        warm_up = settings.model_copy(update={"num_steps": WARM_UP_STEPS})
        draw(backend, size, warm_up, None)
        draw(backend, size, warm_up, StepCache(forced(PRESETS["fast"], layers, [True, False] * WARM_UP_STEPS)))
        plain, every_layer = draw(backend, size, settings, None)
        rows = results[name] = [{"pattern": "off", "steps_computed": options.steps, "seconds": plain}]
        table.add_row(name, "off", str(options.steps), "100 %", f"{plain:.2f}", "100 %", "")
        for title, (preset, computed) in patterns.items():
            seconds, count = draw(backend, size, settings, StepCache(forced(preset, layers, computed)))
            row = {
                "pattern": title,
                "steps_computed": sum(computed),
                "seconds": seconds,
                "share_of_layers": count / every_layer,
                "share_of_time": seconds / plain,
                "overhead": seconds / plain / (count / every_layer) - 1,
            }
            rows.append(row)
            shares = f"{row['share_of_layers']:.1%}", f"{seconds:.2f}", f"{row['share_of_time']:.1%}"
            table.add_row(name, title, str(sum(computed)), *shares, f"{row['overhead']:+.1%}")
    harness.finish(options, {"dtype": options.dtype, "layers": layers, "results": results}, table, network.device)


if __name__ == "__main__":
    main()
