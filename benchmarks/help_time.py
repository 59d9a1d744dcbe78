"""How long `sensenova --help` and every subcommand's `--help` take, as whole processes.

    python -m benchmarks.help_time --json benchmarks/results/help_time.json

Wall time from the start of the interpreter to its end, in turn for all commands, so that a noisy moment of the
machine does not fall on one of them. Exits with 1 where a median is above 0.35 s.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import typer

from benchmarks.report import write_report
from sensenova_cli.app import app

BAR_SECONDS = 0.35


def commands() -> list[str]:
    """Every command and subcommand, and the program itself as an empty word."""
    names = [""]
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        names += [name, *(f"{name} {inner}" for inner in getattr(command, "commands", {}))]
    return names


def seconds(command: str) -> float:
    """One process, started and ended."""
    clock = time.perf_counter()
    words = [sys.executable, "-m", "sensenova_cli", *command.split(), "--help"]
    subprocess.run(words, check=True, capture_output=True)
    return time.perf_counter() - clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    times: dict[str, list[float]] = {command: [] for command in commands()}
    for run in range(options.runs + 1):
        for command in times:
            taken = seconds(command)
            if run:  # the first one compiles modules and warms the page cache
                times[command].append(taken)
    medians = {f"sensenova {command} --help".replace("  ", " "): statistics.median(times[command]) for command in times}
    for command, median in medians.items():
        print(f"{median:.3f} s  {command}")
    slowest = max(medians.values())
    print(f"slowest median {slowest:.3f} s, bar {BAR_SECONDS} s")
    report = {
        "command": "python -m benchmarks.help_time",
        "machine": f"{platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        "runs": options.runs,
        "median_seconds": medians,
    }
    write_report(report, options.json)
    if slowest > BAR_SECONDS:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
