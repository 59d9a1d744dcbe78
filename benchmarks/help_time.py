"""Measure how long `sensenova --help` and every subcommand's `--help` take, as whole processes.

    python -m benchmarks.help_time --output benchmarks/results/help_time.json

Seconds are wall time from the start of the interpreter to its end. Each run measures all commands one after the other,
so that a busy moment of the machine does not affect all runs of one command. Exits with 1 if a median is above the bar.
"""

import statistics
import subprocess
import sys
import time

import typer

from benchmarks import harness
from benchmarks.harness import Bar
from sensenova_cli.app import app

BAR_SECONDS = 0.35


def commands() -> list[str]:
    """Return every command and subcommand; the program itself is an empty string."""
    names = [""]
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        names += [name, *(f"{name} {inner}" for inner in getattr(command, "commands", {}))]
    return names


def seconds(command: str) -> float:
    """Run one process; return its seconds."""
    clock = time.perf_counter()
    words = [sys.executable, "-m", "sensenova_cli", *command.split(), "--help"]
    subprocess.run(words, check=True, capture_output=True)
    return time.perf_counter() - clock


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--runs", type=int, default=11)
    options = parser.parse_args()
    times: dict[str, list[float]] = {command: [] for command in commands()}
    for run in range(options.runs + 1):
        harness.progress(f"run {run} of {options.runs}")
        for command in times:
            taken = seconds(command)
            if run:  # run 0 compiles modules and warms the page cache
                times[command].append(taken)
    medians = {f"sensenova {command} --help".replace("  ", " "): statistics.median(times[command]) for command in times}
    bars = [Bar(command, median, BAR_SECONDS, "s") for command, median in medians.items()]
    harness.finish(options, {"runs": options.runs, "median_seconds": medians}, harness.bars_table(bars))
    raise SystemExit(not all(bar.met for bar in bars))


if __name__ == "__main__":
    main()
