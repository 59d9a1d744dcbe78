"""Measure how long `sensenova generate --server local` takes from Enter to file, against a local cold one-shot.

    SENSENOVA_DTYPE=float32 python -m benchmarks.local_server --output benchmarks/results/local_server.json

A server with the built-in demo is started, and makes one picture first. Each run then times three whole processes, one
after the other: with the server, without it, and `--help`, which shows how busy the machine is. Seconds are wall time
from the start of the interpreter to its end. The picture's own time is the growth of the server's metric
`busy_seconds_total`; the rest is the overhead of the command. Exits with 1 if the median overhead is above the bar.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import Bar

BAR_SECONDS = 0.6
PROMPT = "a red circle"


def environment(folder: Path) -> dict[str, str]:
    """Return an environment without settings of the user, whose server leaves its note in `folder`.

    Modules are compiled once, as those of an installed program are.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SENSENOVA_") and name != "PYTHONDONTWRITEBYTECODE"
    }
    dtype = {"SENSENOVA_DTYPE": os.environ["SENSENOVA_DTYPE"]} if "SENSENOVA_DTYPE" in os.environ else {}
    return {**kept, **dtype, "SENSENOVA_CONFIG_DIR": str(folder), "SENSENOVA_DATA_DIR": str(folder)}


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run `sensenova serve` with the demo; return its address."""
    words = [sys.executable, "-m", "sensenova_cli", "serve", "--port", "0"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment(folder))
    assert process.stderr is not None
    try:
        for line in process.stderr:
            harness.progress(line.rstrip())
            if address := re.search(r"^serving .* at (http://\S+)", line):
                yield address[1]
                break
    finally:
        process.terminate()
        process.communicate()


def picture_words(folder: Path, steps: int) -> tuple[str, ...]:
    """Return the command that makes the picture."""
    return "generate", PROMPT, "--num-steps", str(steps), "-f", "-o", str(folder / "picture.png")


def seconds(folder: Path, *words: str) -> float:
    """Run the program; return its seconds."""
    clock = time.perf_counter()
    command = [sys.executable, "-m", "sensenova_cli", *words]
    subprocess.run(command, check=True, capture_output=True, env=environment(folder))
    return time.perf_counter() - clock


def busy_seconds(address: str) -> float:
    """Return how long requests have run on the server so far."""
    with urllib.request.urlopen(f"{address}/metrics") as answer:
        found = re.search(r"^sensenova_busy_seconds_total (\S+)$", answer.read().decode(), re.MULTILINE)
    assert found is not None
    return float(found[1])


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=24, help="denoising steps of the picture (default: 24)")
    options = parser.parse_args()
    taken: dict[str, list[float]] = {"server": [], "overhead": [], "cold": [], "help": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = picture_words(folder, options.steps)
        with server(folder) as address:
            seconds(folder, *words, "--server", "local")  # compiles modules, and warms caches
            for run in range(options.runs):
                harness.progress(f"run {run + 1} of {options.runs}")
                before = busy_seconds(address)
                taken["server"].append(seconds(folder, *words, "--server", "local"))
                taken["overhead"].append(taken["server"][-1] - (busy_seconds(address) - before))
                taken["cold"].append(seconds(folder, *words))
                taken["help"].append(seconds(folder, "--help"))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    bars = [Bar("overhead of --server local", medians["overhead"], BAR_SECONDS, "s")]
    shown = harness.table("", "median", "lowest", "highest", title=f"generate, {options.steps} steps, seconds")
    names = {
        "server": "--server local, warm",
        "overhead": "without the picture's own steps",
        "cold": "local, cold",
        "help": "--help",
    }
    for key, title in names.items():
        values = taken[key]
        shown.add_row(title, *(f"{value:.2f}" for value in (medians[key], min(values), max(values))))
    result = {"runs": options.runs, "steps": options.steps, "median_seconds": medians, "seconds": taken}
    harness.finish(options, result, shown)
    harness.show(harness.bars_table(bars))
    raise SystemExit(not all(bar.met for bar in bars))


if __name__ == "__main__":
    main()
