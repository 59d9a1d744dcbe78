"""Inject faults: failing file-system calls, signals, and damaged files for every reader.

    python -m benchmarks.faults --seconds 120 --seed 1

Two thirds of the time go to commands in forked processes of the program on a fake engine, each with a failing call, a
disk that stays full, or a signal at a random call, and to signals to real starts; one third goes to damaged files.
Prints each problem, and a table. Exits with 1 if something is lost or half-written, hangs, shows a traceback or an
unexpected error, or ends with an exit code that it should not have.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks import harness
from tests.faults.fuzz import all_readers, in_child, run
from tests.faults.sandbox import COMMANDS, Sandboxes
from tests.faults.shim import ERRORS, Fault
from tests.faults.starts import signal_to_a_start

BATCH = 600
"""Damaged files that one forked process reads."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BATCH_SECONDS = 120.0
SHARE_OF_STARTS = 0.02
"""Share of the cases that start a process of their own, which takes as long as fifty others."""


def main() -> int:
    """Run the campaign; return the exit code."""
    options = harness.parser(__doc__ or "")
    options.add_argument("--seconds", type=float, default=120, help="time of the campaign")
    options.add_argument("--seed", type=int, default=1, help="seed of the faults")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="sensenova-faults-") as folder:
        counts, problems = campaign(Path(folder), chosen)
    kinds = ("errors", "full disks", "signals", "signals to starts", "damaged files", "problems")
    rows = [(kind, counts[kind]) for kind in (*sorted(counts.keys() - set(kinds)), *kinds)]
    result = {"seconds": chosen.seconds, "seed": chosen.seed, **dict(rows), "found": problems[:50]}
    harness.finish(chosen, result, harness.table("kind", "number", rows=[(kind, f"{n:,}") for kind, n in rows]))
    return 1 if problems else 0


def campaign(folder: Path, options: argparse.Namespace) -> tuple[Counter[str], list[str]]:
    """Run faults until the time is over; return how many of each kind, and the problems."""
    import model.opening
    from model import write_tiny_checkpoint
    from tests.cli.harness import Program

    source = random.Random(options.seed)
    counts: Counter[str] = Counter()
    problems: list[str] = []

    def report(problem: str) -> None:
        counts["problems"] += 1
        problems.append(problem)
        harness.progress(problem)

    # First the commands: writing the checkpoint for the readers imports PyTorch, which would slow down each fork.
    model.opening.open_engine = Program().load
    sandboxes = Sandboxes(folder)
    calls = {command: sandboxes.run(command, None).calls for command in COMMANDS}
    began = time.monotonic()
    while time.monotonic() - began < options.seconds * 2 / 3:
        if source.random() < SHARE_OF_STARTS:
            counts["signals to starts"] += 1
            for problem in signal_to_a_start(source, folder, folder / "template" / "checkpoint"):
                report(problem)
            continue
        command = source.choice(COMMANDS)
        fault, kind = _random_fault(source, calls[command])
        counts[kind] += 1
        found = sandboxes.run(command, fault)
        counts[f"exit code {found.code}"] += 1
        for problem in found.problems:
            last = found.stderr.strip().splitlines()[-1:]
            report(f"{command}: {fault}: {problem} (exit code {found.code}; {' '.join(last)})")
    write_tiny_checkpoint(folder / "tiny")
    readers = all_readers(folder / "tiny")
    while time.monotonic() - began < options.seconds:
        seed = source.randrange(2**32)

        def read(seed: int = seed) -> list[str]:
            return [
                f"{name}: {trace.strip().splitlines()[-1]}; seed {seed}; {content[:60]!r}"
                for name, content, trace in run(readers, BATCH, seed)
            ]

        counts["damaged files"] += BATCH
        for problem in in_child(read, BATCH_SECONDS):
            report(problem)
    return counts, problems


def _random_fault(source: random.Random, calls: int) -> tuple[Fault, str]:
    call = source.randint(1, calls)
    match source.randrange(4):
        case 0:
            return Fault(call, error=source.choice(ERRORS)), "errors"
        case 1:
            return Fault(call, error=ERRORS[0], lasting=True), "full disks"
        case _:
            return Fault(call, signal=source.choice(SIGNALS)), "signals"


if __name__ == "__main__":
    sys.exit(main())
