"""Compare pictures of eight-bit weights with pictures of bfloat16 weights, on the demo checkpoint.

    python -m benchmarks.quantized_pictures --output benchmarks/results/quantized_pictures.json

Prompts, seeds and settings are the same. The measure is the PSNR of each picture against the one without quantization.
"""

from random import Random

from benchmarks import harness
from benchmarks.pictures import draw, psnr_of_pairs, recommended_settings
from model.checkpoint.quantization import QUANTIZED_TOWERS
from model.demo.training.lessons import SceneMaker
from model.demo.training.phrases import Speaker
from model.engine import Engine
from model.events import Picture


def main() -> None:
    parser = harness.parser(__doc__, device="auto")
    parser.add_argument("--pictures", type=int, default=32)
    options = parser.parse_args()
    random = Random("quantized pictures")
    scenes, speaker = SceneMaker(random, held_out=True), Speaker(random)
    prompts = [speaker.wish(scenes.scene(1 + number % 2)).prompt for number in range(options.pictures)]
    results = {}
    plain: list[Picture] = []
    for name in QUANTIZED_TOWERS:
        harness.progress(f"quantization {name}")
        engine = Engine.load("demo", device=options.device, quantization=name)
        pictures = draw(engine, prompts, recommended_settings(engine))
        plain = plain or pictures
        if name != "off":
            results[name] = psnr_of_pairs(pictures, plain)
    rows = [(name, f"{each['median']:.1f}", f"{each['least']:.1f}") for name, each in results.items()]
    table = harness.table("quantization", "PSNR, dB", "least", rows=rows)
    result = {"pictures": options.pictures, "psnr_db_against_bfloat16": results}
    harness.finish(options, result, table, engine.device)


if __name__ == "__main__":
    main()
