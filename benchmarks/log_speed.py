"""Measure `sensenova log` on a log of 100,000 entries, as whole processes, and the time to write one entry.

    python -m benchmarks.log_speed --output benchmarks/results/log_speed.json

Seconds of a command are medians without those of `sensenova --version` in the same run. The bar is for the seconds of
the processor, which other work on the machine affects less than wall time; the result file has both. Each run measures
all commands one after the other. Exits with 1 if a figure is above its bar.
"""

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import Bar
from sensenova_cli.log.entries import LogEntry, LoggedFile
from sensenova_cli.log.store import LOG_FILE, LOG_FOLDER, Log

BAR_SECONDS = 0.2
BAR_WRITE_SECONDS = 0.05
VERSION = ("--version",)
COMMANDS = {
    "log": ("log",),
    "log -q, 1 entry": ("log", "-q", "heliotrope"),
    "log -q, 6,000 entries": ("log", "-q", "owl"),
    "log -q, all entries": ("log", "-q", "picture of"),
    "log -q, two characters": ("log", "-q", "ow"),
    "log -q, no entry": ("log", "-q", "nowhere"),
    "log show": ("log", "show", "50000"),
}
SUBJECTS = ("owl", "cat", "boat", "tree", "house", "castle", "robot", "fox", "lake", "city", "horse", "bridge", "moon",
            "train", "garden", "knight")  # fmt: skip
MANNERS = ("at dusk", "in the rain", "as an oil painting", "in ink", "under water", "made of glass", "in a forest")


def entries(count: int) -> Iterator[LogEntry]:
    """Yield entries of pictures and answers; one of them, in the middle, is about a heliotrope."""
    choose = random.Random(1)
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(count):
        subject = "heliotrope" if number == count // 2 else choose.choice(SUBJECTS)
        prompt = f"A picture of a {subject} {choose.choice(MANNERS)}, {choose.choice(MANNERS)}, number {number}"
        is_answer = number % 4 == 3
        path = f"/home/user/pictures/{subject}-{number}.png"
        yield LogEntry(
            task="chat" if is_answer else "generate",
            prompt=prompt,
            status="done",
            reason="",
            seconds=12.5,
            model="SenseNova/SenseNova-U1-8B-MoT",
            settings={"size": "2048x2048", "seed": number, "num_steps": 30},
            loaded={"model": "SenseNova/SenseNova-U1-8B-MoT", "dtype": "bfloat16"},
            files=() if is_answer else (LoggedFile(path, 4_000_000, f"{number:064x}"),),
            answer=f"{prompt}. " * 5 if is_answer else "",
            time=begin + timedelta(minutes=number),
        )


def seconds(words: tuple[str, ...], folder: Path) -> tuple[float, float]:
    """Run one process with its data in a folder; return its seconds of the processor and its wall time."""
    environment = {**os.environ, "SENSENOVA_DATA_DIR": str(folder)}
    clock, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-m", "sensenova_cli", *words], check=True, capture_output=True, env=environment)
    wall, after = time.perf_counter() - clock, os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system, wall


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=11)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = Log(harness.progress, folder / LOG_FOLDER / LOG_FILE)
        harness.progress(f"writing {options.entries} entries")
        log.append(list(entries(options.entries)))
        times: dict[str, list[float]] = {command: [] for command in COMMANDS}
        walls: dict[str, list[float]] = {command: [] for command in COMMANDS}
        for run in range(options.runs + 1):
            harness.progress(f"run {run} of {options.runs}")
            start = seconds(VERSION, folder)
            for command, words in COMMANDS.items():
                taken = seconds(words, folder)
                if run:  # run 0 compiles modules and warms the page cache
                    times[command].append(taken[0] - start[0])
                    walls[command].append(taken[1] - start[1])
        writes = []
        for entry in entries(50):
            clock = time.perf_counter()
            log.append([entry])
            writes.append(time.perf_counter() - clock)
        size = log.file.stat().st_size
    medians = {command: statistics.median(taken) for command, taken in times.items()}
    bars = [Bar(f"sensenova {command}", median, BAR_SECONDS, "s") for command, median in medians.items()]
    bars.append(Bar("writing one entry", statistics.median(writes), BAR_WRITE_SECONDS, "s"))
    result = {
        "entries": options.entries,
        "runs": options.runs,
        "median_processor_seconds_beyond_version": medians,
        "median_wall_seconds_beyond_version": {command: statistics.median(taken) for command, taken in walls.items()},
        "least_wall_seconds_beyond_version": {command: min(taken) for command, taken in walls.items()},
        "median_seconds_of_writing": statistics.median(writes),
        "bytes": size,
    }
    harness.finish(options, result, harness.bars_table(bars))
    raise SystemExit(not all(bar.met for bar in bars))


if __name__ == "__main__":
    main()
