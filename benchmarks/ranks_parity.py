"""Run every golden case on several ranks, and compare pictures and texts with the reference implementation's.

    python -m benchmarks.ranks_parity --output benchmarks/results/ranks_parity.json
    python -m benchmarks.ranks_parity --device cuda 2x1 1x2 gpus2     # on two GPUs, with noise from the CPU

A layout is given as TENSOR×GUIDANCE ranks, or as `gpus2` for the layout that `--gpus 2` chooses in a session. All cases
of the parity checkpoints run in float32. The benchmark also counts the bytes that each rank reads of a checkpoint.
Exits with 1 if a case is outside the tolerances of the test suite (tests/parity): 2e-3 of the largest value for
pictures and first velocities, 1e-3 for first logits, equal tokens.
"""

import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import harness
from model import Answer, AnswerRequest, Engine, Picture, Trace
from model.checkpoint.sharding import Shards, shard_layout, shard_of
from model.checkpoint.tensor_files import stored_tensors, total_bytes
from model.engine import LocalEngine
from model.network.configuration import read_config
from tests.parity.cases import DATA, Case, case_id, cases, golden, relative_difference, request_of

TASKS = ("t2i", "edit", "describe", "chat")
CHECKPOINTS = ("u1", "u15", "a3b")
LAYOUTS = ("2x1", "1x2", "gpus2", "2x2", "1x3", "gpus4")
PICTURE_BAR, LOGITS_BAR = 2e-3, 1e-3


def run_cases(layout: str, folders: dict[str, Path], device: str) -> dict[str, Any]:
    """Run all cases on ranks of one layout; return the largest differences, and those outside the tolerances."""
    worst = {"picture": 0.0, "first velocity": 0.0, "first logits": 0.0}
    wrong = []
    for name, folder in folders.items():
        engine = Engine.load(folder, device=device, dtype="float32", **layout_settings(layout))
        for case in (case for case in cases(*TASKS) if case["checkpoint"] == name):
            found = differences(engine, case)
            worst = {key: max(value, found.get(key, 0.0)) for key, value in worst.items()}
            bars = {"first logits": LOGITS_BAR}
            if any(value >= bars.get(key, PICTURE_BAR) for key, value in found.items()):
                wrong.append({case_id(case): found})
        engine.close()
    return {"worst": worst, "out_of_tolerance": wrong}


def differences(engine: LocalEngine, case: Case) -> dict[str, float]:
    """Return relative differences from the reference implementation; infinity if tokens or think texts differ."""
    found: dict[str, float] = {}
    request = request_of(case)
    if not isinstance(request, AnswerRequest):
        # The reference implementation drew its noise on the CPU.
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


def layout_settings(layout: str) -> dict[str, Any]:
    """Return the load settings of a layout such as `2x1` or `gpus2`."""
    if layout.startswith("gpus"):
        return {"gpus": int(layout.removeprefix("gpus"))}
    tensor, guidance = map(int, layout.split("x"))
    return {"tensor_parallel_size": tensor, "cfg_parallel_size": guidance}


def shares_read(folder: Path, count: int) -> list[float]:
    """Return the share of a checkpoint's bytes that each of `count` ranks reads."""
    tensors = stored_tensors(folder)
    total = sum(tensor.stop - tensor.start for tensor in tensors.values())
    found = []
    for index in range(count):
        shards = Shards.equal(index, count)
        slices = shard_layout(read_config(folder), shards)
        found.append(total_bytes(shard_of(tensor, slices[name], shards) for name, tensor in tensors.items()) / total)
    return found


def main() -> None:
    parser = harness.parser(__doc__, device="cpu")
    parser.add_argument("layouts", nargs="*", default=LAYOUTS, help="such as 2x1 for two tensor ranks")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch) / name for name in CHECKPOINTS}
        for name in CHECKPOINTS:
            with zipfile.ZipFile(DATA / f"{name}.zip") as archive:
                archive.extractall(scratch)
        result["read_by_each_of_two"] = {name: shares_read(folder, 2) for name, folder in folders.items()}
        table = harness.table("ranks", "picture", "first velocity", "first logits", "cases out of tolerance")
        for layout in options.layouts:
            harness.progress(layout)
            result[layout] = found = run_cases(layout, folders, options.device)
            wrong = found["out_of_tolerance"]
            for each in wrong:
                harness.progress(f"out of tolerance: {each}")
            table.add_row(layout, *(f"{value:.1e}" for value in found["worst"].values()), str(len(wrong)))
    harness.finish(options, result, table, options.device)
    raise SystemExit(any(result[layout]["out_of_tolerance"] for layout in options.layouts))


if __name__ == "__main__":
    main()
