"""How long a first try takes: `generate` and `describe` on the built-in demo, from Enter to the result.

    python -m benchmarks.demo_time --json benchmarks/results/demo_time.json

Each run is a cold process with default settings. Prints the median seconds and the largest peak RSS of `--runs` runs,
and exits with 1 above the bars.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import write_report

PROMPT = "a red circle on a blue background"
BARS = {"generate": 8.0, "describe": 6.0}
"""Seconds."""
RSS_BAR = 1.2e9
"""Bytes."""


def run(command: list[str], folder: str) -> tuple[float, int]:
    """Seconds and peak RSS in bytes of one process."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SENSENOVA_")}
    environment["SENSENOVA_CONFIG_DIR"] = folder
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "sensenova_cli", *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"sensenova {' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return seconds, usage.ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = {}
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        for name in BARS:
            command = (
                ["generate", PROMPT, "-f", "-o", "circle.png"] if name == "generate" else ["describe", "circle.png"]
            )
            runs = [run(command, folder) for _ in range(arguments.runs)]
            seconds, rss = statistics.median(each[0] for each in runs), max(each[1] for each in runs)
            figures[name] = {"median_seconds": seconds, "runs": [each[0] for each in runs], "peak_rss_bytes": rss}
            missed |= seconds > BARS[name] or rss > RSS_BAR
            print(f"{name:9} {seconds:5.2f} s (bar {BARS[name]:g} s), peak RSS {rss / 1e9:.2f} GB (bar 1.2 GB)")
    report = {"cores": os.cpu_count(), "machine": platform.machine(), "prompt": PROMPT, "figures": figures}
    write_report(report, arguments.json)
    raise SystemExit(missed)


if __name__ == "__main__":
    main()
