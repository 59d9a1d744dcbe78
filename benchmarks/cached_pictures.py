"""Compare pictures of each `--cache` preset with pictures without a cache, on the demo checkpoint.

    python -m benchmarks.cached_pictures --pictures 16 --output benchmarks/results/cached_pictures.json

Prompts, seeds and the other settings are equal. Half of the pictures show shapes and objects on backgrounds that the
demo was trained on; the other half show one object each on a background that was left out of training. `--steps` are
the numbers of steps for which all of this is done.
"""

from random import Random
from typing import Any

from benchmarks import harness
from benchmarks.pictures import draw, psnr_of_pairs, recommended_settings, ssim_of_pairs
from config.step_cache import PRESETS
from model.demo.training.phrases import Speaker, article
from model.demo.training.scenes import SceneMaker
from model.demo.training.world import OBJECTS, Thing, held_out_background
from model.engine import Engine
from model.events import CacheSummary, Picture


def compare(cached: list[Picture], plain: list[Picture]) -> dict[str, Any]:
    """Compare a preset's pictures with those without a cache."""
    summaries: list[CacheSummary] = [picture.caching for picture in cached if picture.caching]
    computed = sum(summary.layers_computed for summary in summaries) / sum(summary.layers for summary in summaries)
    return {
        "layers_computed": computed,
        "psnr_db": psnr_of_pairs(cached, plain),
        "ssim": ssim_of_pairs(cached, plain),
    }


def chosen_prompts(count: int) -> list[str]:
    """Return prompts for `count` pictures, the same ones in every run."""
    random = Random("cached pictures")
    scenes, speaker = SceneMaker(random, held_out=True), Speaker(random)
    prompts = [speaker.wish(scenes.scene(1 + number % 2)).prompt for number in range(count // 2)]
    for thing in map(Thing, random.sample(list(OBJECTS), count - len(prompts))):
        prompts.append(f"{article(thing.name)} on {article(held_out_background(thing))} background")
    return prompts


def main() -> None:
    parser = harness.parser(__doc__, device="auto", dtype="bfloat16")
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--steps", type=int, nargs="+", default=[24, 50])
    options = parser.parse_args()
    prompts = chosen_prompts(options.pictures)
    engine = Engine.load("demo", device=options.device, dtype=options.dtype)
    results: dict[str, dict[str, Any]] = {}
    table = harness.table("preset", "steps", "layers computed", "PSNR, dB", "least", "SSIM", "least")
    for steps in options.steps:
        plain = draw(engine, prompts, recommended_settings(engine, num_steps=steps))
        for preset in PRESETS:
            harness.progress(f"{preset}, {steps} steps")
            cached = draw(engine, prompts, recommended_settings(engine, num_steps=steps, cache=preset))
            found = results.setdefault(preset, {})[str(steps)] = compare(cached, plain)
            psnr, ssim = found["psnr_db"], found["ssim"]
            table.add_row(
                preset,
                str(steps),
                f"{found['layers_computed']:.0%}",
                f"{psnr['median']:.1f}",
                f"{psnr['least']:.1f}",
                f"{ssim['median']:.4f}",
                f"{ssim['least']:.4f}",
            )
    result = {"dtype": engine.dtype, "pictures": options.pictures, "against_uncached": results}
    harness.finish(options, result, table, engine.device)


if __name__ == "__main__":
    main()
