"""Every golden case on several ranks: how far pictures and texts are from the reference implementation's.

    python -m benchmarks.ranks_parity --json benchmarks/results/ranks_parity.json
    python -m benchmarks.ranks_parity --device cuda 2x1 1x2 gpus2     # on two GPUs, with the CPU's noise

For each number of ranks, given as TENSOR×GUIDANCE, or as `gpus2` for what `--gpus 2` does in a session, all cases of
the parity checkpoints are run in float32. Also counts the bytes that each rank reads of a checkpoint. Exits with 1
where a case is not within the tolerances that the suite has (tests/parity): 2e-3 of the largest value for pictures and
first velocities, 1e-3 for first logits, equal tokens.
"""

import argparse
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.report import write_report
from model import Answer, AnswerRequest, Engine, Picture, Trace
from model.checkpoint.safetensors_files import stored_tensors
from model.checkpoint.sharding import Shards, shard_layout, shard_of
from model.engine import LocalEngine
from model.network.configuration import read_config
from tests.parity.cases import DATA, Case, case_id, cases, golden, relative_difference, request_of

TASKS = ("t2i", "edit", "describe", "chat")
CHECKPOINTS = ("u1", "u15", "a3b")
SIZES = ("2x1", "1x2", "gpus2", "2x2", "1x3", "gpus4")
PICTURE_BAR, LOGITS_BAR = 2e-3, 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", default=SIZES, help="like 2x1 for two tensor ranks")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"command": "python -m benchmarks.ranks_parity"}
    good = True
    with tempfile.TemporaryDirectory() as scratch:
        for name in CHECKPOINTS:
            with zipfile.ZipFile(DATA / f"{name}.zip") as archive:
                archive.extractall(scratch)
        report["read_by_each_of_two"] = {name: share_read(Path(scratch) / name, 2) for name in CHECKPOINTS}
        print("part of a checkpoint that each of two ranks reads:", report["read_by_each_of_two"])
        for size in arguments.sizes:
            worst = {"picture": 0.0, "first velocity": 0.0, "first logits": 0.0}
            wrong = []
            for name in CHECKPOINTS:
                engine = Engine.load(
                    Path(scratch) / name,
                    device=arguments.device,
                    dtype="float32",
                    **sharing(size),
                )
                for case in (case for case in cases(*TASKS) if case["checkpoint"] == name):
                    found = differences(engine, case)
                    worst = {key: max(value, found.get(key, 0.0)) for key, value in worst.items()}
                    bars = {"first logits": LOGITS_BAR}
                    if any(value >= bars.get(key, PICTURE_BAR) for key, value in found.items()):
                        wrong.append({case_id(case): found})
                engine.close()
            shown = ", ".join(f"{key} {value:.1e}" for key, value in worst.items())
            print(f"{size}: {shown}; {len(wrong)} cases out of tolerance", *wrong)
            report[size] = {"worst": worst, "out_of_tolerance": wrong}
            good = good and not wrong
    write_report(report, arguments.json)
    raise SystemExit(not good)


def differences(engine: LocalEngine, case: Case) -> dict[str, float]:
    """Relative differences from what the reference implementation gave; a text of other tokens is infinitely far."""
    found: dict[str, float] = {}
    request = request_of(case)
    if not isinstance(request, AnswerRequest):
        # The reference implementation's was drawn on the CPU.
        request = replace(request, settings=request.settings.model_copy(update={"noise": "cpu"}))
    trace = Trace()
    for event in engine.run(request, trace):
        if isinstance(event, Picture):
            found["first velocity"] = relative_difference(trace.velocities[0].cpu(), golden(case, "first_velocity"))
            found["picture"] = relative_difference(trace.pictures[0], golden(case, "image"))
            if event.think_text != case["think_text"]:
                found["picture"] = float("inf")
        elif isinstance(event, Answer):
            assert trace.first_logits is not None
            found["first logits"] = relative_difference(trace.first_logits, golden(case, "first_logits")[0])
            if list(event.token_ids) != golden(case, "new_ids")[0].tolist():
                found["first logits"] = float("inf")
    return found


def sharing(size: str) -> dict[str, Any]:
    """The settings that say how: of `2x1`, or of `gpus2`."""
    if size.startswith("gpus"):
        return {"gpus": int(size.removeprefix("gpus"))}
    tensor, guidance = map(int, size.split("x"))
    return {"tensor_parallel_size": tensor, "cfg_parallel_size": guidance}


def share_read(folder: Path, count: int) -> list[float]:
    """The part of a checkpoint's bytes that each of `count` ranks reads."""
    tensors = stored_tensors(folder)
    total = sum(tensor.stop - tensor.start for tensor in tensors.values())
    parts = []
    for index in range(count):
        shards = Shards.equal(index, count)
        slots = shard_layout(read_config(folder), shards)
        parts.append(sum(shard_of(tensor, slots[name], shards).nbytes for name, tensor in tensors.items()) / total)
    return parts


if __name__ == "__main__":
    main()
