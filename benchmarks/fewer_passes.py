"""Compare pictures in fewer passes with those of the full run, on the demo checkpoint.

    python -m benchmarks.fewer_passes --output benchmarks/results/fewer_passes.json --save pictures

Prompts, seeds and the other settings are equal. The variants are settings of `VARIANTS`: branches of guidance that are
not computed in every step, guidance that ends, and drafts at half the size. `cfg_scale 1`, a picture without guidance,
shows how much guidance changes at all. Passes are predictions, one for each branch that a step computes; computations
also count the tokens of each pass. `--save` writes a sheet for each variant, with the pictures of the full run above.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import harness
from benchmarks.cached_pictures import chosen_prompts
from benchmarks.pictures import psnr_of_pairs, recommended_settings, ssim_of_pairs
from config.settings import ImageSettings
from model.engine import Engine
from model.events import Picture, Statistics
from model.requests import GenerateRequest

VARIANTS: dict[str, dict[str, Any]] = {
    "cfg_every 2": {"cfg_every": 2},
    "cfg_every 3": {"cfg_every": 3},
    "cfg_stop 0.02": {"cfg_stop": 0.02},
    "cfg_stop 0.05": {"cfg_stop": 0.05},
    "cfg_every 2, cfg_stop 0.05": {"cfg_every": 2, "cfg_stop": 0.05},
    "half_size_until 0.3": {"half_size_until": 0.3},
    "cfg_scale 1": {"cfg_scale": 1.0},
}


def draw(engine: Engine, prompts: list[str], settings: ImageSettings) -> tuple[list[Picture], int, int]:
    """Draw one picture of each prompt; return the pictures, their passes and their floating-point operations."""
    pictures: list[Picture] = []
    passes = operations = 0
    for prompt in prompts:
        for event in engine.run(GenerateRequest(prompt, settings)):
            if isinstance(event, Picture):
                pictures.append(event)
            elif isinstance(event, Statistics):
                passes += event.denoise_passes
                operations += event.denoise_flops
    return pictures, passes, operations


def save_sheet(file: Path, *rows: list[Picture]) -> None:
    """Write rows of pictures of one size as one PNG file."""
    lines = [np.concatenate([np.asarray(picture.image) for picture in row], axis=1) for row in rows]
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(lines, axis=0)).save(file)


def main() -> None:
    parser = harness.parser(__doc__, model="demo", models="a checkpoint", device="cpu", dtype="float32")
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--steps", type=int, help="number of denoising steps (default: the recommended number)")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="write the pictures here")
    options = parser.parse_args()
    prompts = chosen_prompts(options.pictures)
    engine = Engine.load(options.model, device=options.device, dtype=options.dtype)
    always = {} if options.steps is None else {"num_steps": options.steps}
    full, all_passes, all_operations = draw(engine, prompts, recommended_settings(engine, **always))
    results: dict[str, dict[str, Any]] = {}
    table = harness.table("variant", "passes", "computations", "PSNR, dB", "least", "SSIM", "least")
    for name, changes in VARIANTS.items():
        harness.progress(name)
        made, passes, operations = draw(engine, prompts, recommended_settings(engine, **always, **changes))
        psnr, ssim = psnr_of_pairs(made, full), ssim_of_pairs(made, full)
        results[name] = {
            "share_of_passes": passes / all_passes,
            "share_of_computations": operations / all_operations,
            "psnr_db": psnr,
            "ssim": ssim,
        }
        decibels = f"{psnr['median']:.1f}", f"{psnr['least']:.1f}"
        similarity = f"{ssim['median']:.4f}", f"{ssim['least']:.4f}"
        table.add_row(name, f"{passes / all_passes:.0%}", f"{operations / all_operations:.0%}", *decibels, *similarity)
        if options.save is not None:
            save_sheet(options.save / f"{name.replace(', ', '-').replace(' ', '_')}.png", full, made)
    conditions = {"dtype": engine.dtype, "pictures": options.pictures, "steps": full[0].settings.num_steps}
    harness.finish(options, {**conditions, "against_full_run": results}, table, engine.device)


if __name__ == "__main__":
    main()
