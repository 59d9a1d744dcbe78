"""Measure how long `sensenova --help` and every subcommand's `--help` take, as whole processes.

    python -m benchmarks.help_time --output benchmarks/results/help_time.json

Seconds are wall time from the start of the interpreter to its end. Each run measures all commands one after the other,
so that a busy moment of the machine does not affect all runs of one command. Exits with 1 if a median is above the bar.
"""

import statistics
import subprocess
import sys
import time

from benchmarks import harness
from benchmarks.harness import Bar
from sensenova_cli.app import load_command
from sensenova_cli.commands import COMMANDS

BAR_SECONDS = 0.35
BAR_RATIO = 1.8
"""Largest ratio of the program's own help to the import of the libraries that it needs."""
LIBRARIES = "import typer, rich, pydantic"


def commands() -> list[str]:
    """Return every command and subcommand; the program itself is an empty string."""
    names = [""]
    for name in COMMANDS:
        names += [name, *(f"{name} {inner}" for inner in getattr(load_command(name), "commands", {}))]
    return names


def seconds(command: str) -> float:
    """Run one process, for a command's help or with the libraries; return its seconds."""
    words = ["-c", command] if command == LIBRARIES else ["-m", "sensenova_cli", *command.split(), "--help"]
    clock = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return time.perf_counter() - clock


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--runs", type=int, default=11)
    options = parser.parse_args()
    times: dict[str, list[float]] = {command: [] for command in (LIBRARIES, *commands())}
    for run in range(options.runs + 1):
        harness.progress(f"run {run} of {options.runs}")
        for command in times:
            taken = seconds(command)
            if run:  # run 0 compiles modules and warms the page cache
                times[command].append(taken)
    libraries = statistics.median(times.pop(LIBRARIES))
    medians = {f"sensenova {command} --help".replace("  ", " "): statistics.median(times[command]) for command in times}
    ratio = medians["sensenova --help"] / libraries
    bars = [Bar(command, median, BAR_SECONDS, "s") for command, median in medians.items()]
    bars.insert(0, Bar(f"sensenova --help / {LIBRARIES}", ratio, BAR_RATIO, "×"))
    result = {"runs": options.runs, "libraries_seconds": libraries, "ratio": ratio, "median_seconds": medians}
    harness.finish(options, result, harness.bars_table(bars))
    raise SystemExit(not all(bar.met for bar in bars))


if __name__ == "__main__":
    main()
