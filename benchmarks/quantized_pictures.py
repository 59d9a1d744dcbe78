"""Compare pictures and answers of eight-bit weights with those of weights as they are, on the demo checkpoint.

    python -m benchmarks.quantized_pictures --output benchmarks/results/quantized_pictures.json
    python -m benchmarks.quantized_pictures --dtype float32 --quantizations int8 int8-all

Prompts, seeds and settings are the same. The measure is the PSNR of each picture against the one without quantization,
and the number of these pictures that the model describes in other words.
"""

from random import Random

from benchmarks import harness
from benchmarks.pictures import draw, psnr_of_pairs, recommended_settings
from model.checkpoint.quantization import QUANTIZATIONS
from model.demo.training.phrases import Speaker
from model.demo.training.scenes import SceneMaker
from model.engine import Engine
from model.events import Answer, Picture
from model.requests import AnswerRequest

BAR = 40.0
"""The least median PSNR of int8's pictures, in dB."""


def descriptions(engine: Engine, pictures: list[Picture]) -> list[str]:
    """Return the model's description of each picture."""
    requests = [AnswerRequest("Describe this image.", (picture.image,)) for picture in pictures]
    return [next(event.text for event in engine.run(each) if isinstance(event, Answer)) for each in requests]


def main() -> None:
    parser = harness.parser(__doc__, device="auto", dtype="bfloat16")
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--quantizations", nargs="+", choices=list(QUANTIZATIONS), default=list(QUANTIZATIONS)[1:])
    options = parser.parse_args()
    random = Random("quantized pictures")
    scenes, speaker = SceneMaker(random, held_out=True), Speaker(random)
    prompts = [speaker.wish(scenes.scene(1 + number % 2)).prompt for number in range(options.pictures)]
    results: dict[str, dict[str, float]] = {}
    plain: list[Picture] = []
    plain_texts: list[str] = []
    for name in ["off", *options.quantizations]:
        harness.progress(f"quantization {name}")
        engine = Engine.load("demo", device=options.device, dtype=options.dtype, quantization=name)
        pictures = draw(engine, prompts, recommended_settings(engine))
        plain = plain or pictures
        texts = descriptions(engine, plain)
        plain_texts = plain_texts or texts
        if name != "off":
            changed = sum(text != other for text, other in zip(texts, plain_texts, strict=True))
            results[name] = {**psnr_of_pairs(pictures, plain), "changed_texts": changed}
            harness.progress(f"{results[name]}")
    rows = [
        (name, f"{each['median']:.1f}", f"{each['least']:.1f}", f"{each['changed_texts']}")
        for name, each in results.items()
    ]
    table = harness.table("quantization", "PSNR, dB", "least", "changed texts", rows=rows)
    result = {"pictures": options.pictures, f"psnr_db_against_{options.dtype}": results}
    harness.finish(options, result, table, engine.device)
    int8 = [harness.Bar(name, each["median"], BAR, "dB", True) for name, each in results.items() if "int8" in name]
    harness.show(harness.bars_table(int8))


if __name__ == "__main__":
    main()
