"""Measure how long a first try takes: `generate` and `describe` on the built-in demo, from Enter to the result.

    python -m benchmarks.demo_time --output benchmarks/results/demo_time.json

Each run is a new process with default settings. Seconds are the median of `--runs` runs, the peak resident set is the
largest one. Exits with 1 if a bar is missed.
"""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import harness
from benchmarks.harness import Bar

PROMPT = "a red circle on a blue background"
COMMANDS = {"generate": ["generate", PROMPT, "-f", "-o", "circle.png"], "describe": ["describe", "circle.png"]}
BAR_SECONDS = {"generate": 8.0, "describe": 6.0}
BAR_GIGABYTES = 1.2


def run(command: list[str], folder: str) -> tuple[float, int]:
    """Run the program once; return its seconds and its peak resident set in bytes."""
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
    parser = harness.parser(__doc__)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    figures, bars = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name, command in COMMANDS.items():
            harness.progress(f"{name}, {options.runs} times")
            runs = [run(command, folder) for _ in range(options.runs)]
            median, peak = statistics.median(seconds for seconds, _ in runs), max(peak for _, peak in runs)
            figures[name] = {
                "median_seconds": median,
                "runs": [seconds for seconds, _ in runs],
                "peak_rss_bytes": peak,
            }
            bars += [
                Bar(name, median, BAR_SECONDS[name], "s"),
                Bar(f"{name}, peak memory", peak / 1e9, BAR_GIGABYTES, "GB"),
            ]
    harness.finish(options, {"prompt": PROMPT, "figures": figures}, harness.bars_table(bars))
    raise SystemExit(not all(bar.met for bar in bars))


if __name__ == "__main__":
    main()
