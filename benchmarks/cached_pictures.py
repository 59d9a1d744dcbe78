"""How far pictures of each `--cache` preset are from those without, and what they compute, on the demo checkpoint.

    python -m benchmarks.cached_pictures --json benchmarks/results/cached_pictures.json

The same prompts and seeds, recommended settings but for the steps; half of the pictures show shapes and objects as the
demo was taught them, the other half one object each on a background of which it was not.
"""

import argparse
import statistics
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.report import write_report
from benchmarks.similarity import ssim
from config.settings import ImageSettings
from config.step_cache import PRESETS
from model.checkpoint.builtin import DEMO_CHECKPOINT
from model.demo.training.judging import psnr
from model.demo.training.lessons import SceneMaker
from model.demo.training.phrases import Speaker, article
from model.demo.training.world import OBJECTS, Thing, held_out_background
from model.engine import Engine
from model.events import CacheSummary, Picture
from model.requests import GenerateRequest


def draw(engine: Engine, prompts: list[str], settings: ImageSettings) -> list[Picture]:
    """One picture of each prompt."""
    return [
        next(event for event in engine.run(GenerateRequest(prompt, settings)) if isinstance(event, Picture))
        for prompt in prompts
    ]


def compare(cached: list[Picture], plain: list[Picture]) -> dict[str, Any]:
    """Of a preset's pictures against those without."""
    pairs = [(np.asarray(one.image), np.asarray(other.image)) for one, other in zip(cached, plain, strict=True)]
    decibels, likeness = [psnr(*pair) for pair in pairs], [ssim(*pair) for pair in pairs]
    told: list[CacheSummary] = [picture.caching for picture in cached if picture.caching]
    return {
        "layers_computed": sum(each.layers_computed for each in told) / sum(each.layers for each in told),
        "psnr_db": {"median": statistics.median(decibels), "least": min(decibels)},
        "ssim": {"median": statistics.median(likeness), "least": min(likeness)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--steps", type=int, nargs="+", default=[24, 50])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    random = Random("cached pictures")
    scenes, speaker = SceneMaker(random, held_out=True), Speaker(random)
    prompts = [speaker.wish(scenes.scene(1 + number % 2)).prompt for number in range(options.pictures // 2)]
    for thing in map(Thing, random.sample(list(OBJECTS), options.pictures - len(prompts))):
        prompts.append(f"{article(thing.name)} on {article(held_out_background(thing))} background")
    engine = Engine.load(DEMO_CHECKPOINT, device=options.device)
    recommended = {k: v for k, v in engine.card.recommended.settings.items() if k in ImageSettings.model_fields}
    results: dict[str, dict[str, Any]] = {}
    for steps in options.steps:
        plain = draw(engine, prompts, ImageSettings(**{**recommended, "num_steps": steps}))
        for preset in PRESETS:
            cached = draw(engine, prompts, ImageSettings(**{**recommended, "num_steps": steps, "cache": preset}))
            found = results.setdefault(preset, {})[str(steps)] = compare(cached, plain)
            print(
                f"{preset:9} {steps:3} steps: {100 * found['layers_computed']:.0f} % of the layers computed, "
                f"PSNR {found['psnr_db']['median']:.1f} dB, least {found['psnr_db']['least']:.1f}, "
                f"SSIM {found['ssim']['median']:.4f}, least {found['ssim']['least']:.4f}",
                flush=True,
            )
    report = {
        "command": f"python -m benchmarks.cached_pictures --pictures {options.pictures}",
        "device": engine.device,
        "dtype": engine.dtype,
        "pictures": options.pictures,
        "against_uncached": results,
    }
    write_report(report, options.json)


if __name__ == "__main__":
    main()
