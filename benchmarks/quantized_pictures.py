"""How far pictures of eight-bit weights are from those of bfloat16, on the demo checkpoint.

    python -m benchmarks.quantized_pictures --json benchmarks/results/quantized_pictures.json

The same prompts and seeds, recommended settings; PSNR of each picture against the one without quantization.
"""

import argparse
import statistics
from pathlib import Path
from random import Random

import numpy as np

from benchmarks.report import write_report
from config.settings import ImageSettings
from model.checkpoint.builtin import DEMO_CHECKPOINT
from model.checkpoint.quantization import QUANTIZED_TOWERS
from model.demo.training.judging import psnr
from model.demo.training.lessons import SceneMaker
from model.demo.training.phrases import Speaker
from model.engine import Engine
from model.events import Picture
from model.requests import GenerateRequest


def draw(engine: Engine, prompts: list[str], settings: ImageSettings) -> list[np.ndarray]:
    """One picture of each prompt, RGB."""
    pictures = []
    for prompt in prompts:
        picture = next(event for event in engine.run(GenerateRequest(prompt, settings)) if isinstance(event, Picture))
        pictures.append(np.asarray(picture.image))
    return pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    random = Random("quantized pictures")
    scenes, speaker = SceneMaker(random, held_out=True), Speaker(random)
    prompts = [speaker.wish(scenes.scene(1 + number % 2)).prompt for number in range(options.pictures)]
    results = {}
    plain: list[np.ndarray] = []
    for name in QUANTIZED_TOWERS:
        engine = Engine.load(DEMO_CHECKPOINT, device=options.device, quantization=name)
        recommended = engine.card.recommended.settings.items()
        settings = ImageSettings(**{key: value for key, value in recommended if key in ImageSettings.model_fields})
        pictures = draw(engine, prompts, settings)
        plain = plain or pictures
        values = [psnr(ours, theirs) for ours, theirs in zip(pictures, plain, strict=True)]
        if name != "off":
            results[name] = {"median": statistics.median(values), "least": min(values)}
            print(f"{name:8} PSNR {results[name]['median']:.1f} dB, least {results[name]['least']:.1f} dB")
    report = {
        "command": f"python -m benchmarks.quantized_pictures --pictures {options.pictures}",
        "device": engine.device,
        "pictures": options.pictures,
        "psnr_db_against_bfloat16": results,
    }
    write_report(report, options.json)


if __name__ == "__main__":
    main()
