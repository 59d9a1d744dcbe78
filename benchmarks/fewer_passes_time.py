"""Measure the time of pictures in fewer passes, with random weights of a built-in shape.

    python -m benchmarks.fewer_passes_time --output benchmarks/results/fewer_passes_u1-8b_h100.json
    python -m benchmarks.fewer_passes_time --model model/demo/checkpoint --device cpu --dtype float32 --steps 8 \\
        --size 128x128

Times are those of all steps of a guided picture, with a step's first compilations and captures in a picture before.
Random weights say nothing about pictures. Nor do their branches agree at a meaningful step, so the variant with
`cfg_stop` ends guidance as soon as it can, after the second step. Its time is the least that the setting can reach.
"""

import time
from typing import Any

from benchmarks import harness
from benchmarks.timed_pictures import open_backend, parse_options
from config.settings import ImageSettings
from config.sizes import Size, format_size, parse_size
from model.bench.bench import denoise_states
from model.devices import synchronize
from model.sampling.backend import Backend
from model.sampling.denoise import denoise
from model.sampling.guidance import generate_guidance

VARIANTS: dict[str, dict[str, Any]] = {
    "full run": {},
    "cfg_every 2": {"cfg_every": 2},
    "cfg_stop, at the earliest": {"cfg_stop": 1.0},
    "half_size_until 0.5": {"half_size_until": 0.5},
    "cfg_every 2, half_size_until 0.5": {"cfg_every": 2, "half_size_until": 0.5},
}


def draw(backend: Backend, size: Size, settings: ImageSettings) -> tuple[float, int]:
    """Draw a picture; return the seconds of its steps and the number of its passes."""
    states, guidance = denoise_states(backend, size), generate_guidance(settings)
    synchronize(backend.network.device)
    clock = time.perf_counter()
    passes = 0
    for step in denoise(backend, states, guidance, size, 42, settings):
        step.wait()
        passes += len(step.layers)
    synchronize(backend.network.device)
    return time.perf_counter() - clock, passes


def main() -> None:
    options = parse_options(__doc__)
    backend = open_backend(options)
    results: dict[str, dict[str, Any]] = {}
    table = harness.table("picture", "variant", "passes", "seconds", "time")
    for size in filter(None, map(parse_size, options.size)):
        rows = results[format_size(size)] = {}
        for name, changes in VARIANTS.items():
            harness.progress(f"{format_size(size)}, {name}")
            settings = ImageSettings(num_steps=options.steps, **changes)
            draw(backend, size, settings)  # compiles kernels
            seconds, passes = draw(backend, size, settings)
            whole = rows["full run"]["seconds"] if rows else seconds
            rows[name] = {"passes": passes, "seconds": seconds, "share_of_time": seconds / whole}
            table.add_row(format_size(size), name, str(passes), f"{seconds:.2f}", f"{seconds / whole:.1%}")
    harness.finish(
        options,
        {"dtype": options.dtype, "quantization": options.quantization, "results": results},
        table,
        backend.network.device,
    )


if __name__ == "__main__":
    main()
