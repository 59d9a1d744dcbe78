"""Score the demo checkpoint on combinations of things and backgrounds that were left out of its training.

    python -m benchmarks.demo_eval --output benchmarks/results/demo_eval.json --sheet docs/demo_objects.png

Case k of a task is the same on every machine. Pictures have the checkpoint's recommended settings and seed 0.
`--cfg-scale 1` shows the effect of guidance, `--cache` and `--cfg-interval` the cost of leaving computations out.
A picture is right if the prompt allows it: where the prompt leaves place, size, background or a shade open, the seed
may decide.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.demo_abilities import AbilityExaminer
from benchmarks.demo_examiner import SEED
from config.step_cache import PRESETS
from model.demo.training.world import COLORS, OBJECTS, SHAPES
from model.engine import Engine

TASKS = ("generate", "objects", "edit", "describe", "chat", "think", "sizes", "counts", "variety", "stories")


def main() -> None:
    parser = harness.parser(__doc__, model="demo", models="checkpoint folder", device="cpu", dtype="float32")
    parser.add_argument("--quantization", default="off")
    parser.add_argument("--cases", type=int, default=100, help="cases of each task except objects")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of each object")
    parser.add_argument("--cfg-scale", type=float)
    parser.add_argument("--cfg-interval", type=float, nargs=2, metavar=("LO", "HI"))
    parser.add_argument("--num-steps", type=int)
    parser.add_argument("--cache", choices=(*PRESETS, "off"))
    parser.add_argument("--think", action=argparse.BooleanOptionalAction)
    parser.add_argument("--only", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--sheet", type=Path, help="write the contact sheet of objects to this file")
    parser.add_argument("--sheets", type=Path, help="write contact sheets of three sizes into this folder")
    parser.add_argument("--failures", type=Path, help="folder for wrong pictures, each beside the true one")
    options = parser.parse_args()
    engine = Engine.load(options.model, device=options.device, dtype=options.dtype, quantization=options.quantization)
    names = ("cfg_scale", "cfg_interval", "num_steps", "cache", "think")
    overrides = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    examiner = AbilityExaminer(engine, options.cases, options.seeds, overrides, options.failures)
    result: dict[str, Any] = {
        "dtype": engine.dtype,
        "quantization": options.quantization,
        "cases": options.cases,
        "seeds": options.seeds,
        "settings": {**engine.card.recommended.settings, "seed": SEED, **overrides},
        "layers_computed": None,
        "scores": {},
        "known": {"colors": list(COLORS), "shapes": SHAPES, "objects": list(OBJECTS)},
    }
    scores = result["scores"]
    for task in options.only:
        began = time.perf_counter()
        scores[task] = examiner.objects(options.sheet) if task == "objects" else getattr(examiner, task)()
        harness.progress(f"{task}: {time.perf_counter() - began:.0f} s, {scores[task]}")
        result["layers_computed"] = examiner.layers_computed
        harness.save(options, result, engine.device)
    if options.sheets:
        examiner.sheets(options.sheets)
    for line in examiner.wrong:
        harness.progress(f"wrong: {line}")
    rows = [(f"{task}: {name}", f"{score:.1f}") for task in scores for name, score in scores[task].items()]
    harness.finish(options, result, harness.table("", "score", rows=rows), engine.device)


if __name__ == "__main__":
    main()
