"""`sensenova bench startup`: measures, in new processes, the time from Enter to the first step or token."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from config.errors import SenseNovaError
from config.settings import LoadSettings

PROMPT = "a red circle on a blue background"
LIBRARIES = "typer, rich, pydantic"
"""The libraries that the program's help needs. Their import is the measure for `--help`."""
PASSED_ON = ("device", "dtype", "quantization")


@dataclass(frozen=True)
class StartupFigure:
    """One measurement.

    Attributes:
        work: the name of the measured work.
        runs: seconds in each process.
    """

    work: str
    runs: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """The median."""
        return statistics.median(self.runs)


def measure_in_processes(settings: LoadSettings, model: str, size: str, runs: int) -> Iterator[StartupFigure]:
    """Measure each kind of work in new processes, several times, and yield each figure as soon as it is known.

    One more process runs before the others and is not timed. It fills the caches of files and of compiled kernels.

    Args:
        model: the model's name, or a folder.
        size: size of the pictures, as in the settings.
        runs: number of timed processes for each kind of work.

    Raises:
        SenseNovaError: a process failed.
    """
    with tempfile.TemporaryDirectory(prefix="sensenova-startup-") as folder:
        yield from _help(runs, folder)
        draw = ["generate", PROMPT, "--size", size, "--num-steps", "4", "--json", "--timings", "-o", "made.png", "-f"]
        draw.append("--no-log")
        yield from _run_command("generate", [*draw, *_flags(settings, model)], "step", runs, folder)
        ask = ["describe", "made.png", "--max-tokens", "2", "--no-log", *_flags(settings, model)]
        yield from _run_command("describe", ask, "token", runs, folder)
        yield from _library(settings, model, size, runs, folder)


def _flags(settings: LoadSettings, model: str) -> list[str]:
    flags = ["--model", model]
    for name in PASSED_ON:
        flags += [f"--{name}", getattr(settings, name)]
    return flags + (["--enforce-eager"] if settings.enforce_eager else [])


def _help(runs: int, folder: str) -> Iterator[StartupFigure]:
    """Measure the help and the import of its libraries, alternately, so that both see the same load."""
    works = {
        "sensenova --help": ["-m", "sensenova_cli", "--help"],
        f"import {LIBRARIES}": ["-c", f"import {LIBRARIES}"],
    }
    seconds: dict[str, list[float]] = {work: [] for work in works}
    for run in range(runs + 1):
        for work, words in works.items():
            clock = time.perf_counter()
            _wait(_start(words, folder), words)
            if run:
                seconds[work].append(time.perf_counter() - clock)
    yield from (StartupFigure(work, tuple(each)) for work, each in seconds.items())


def _run_command(name: str, words: Sequence[str], item: str, runs: int, folder: str) -> Iterator[StartupFigure]:
    """Measure a command from its start to its first step or token, and to its end.

    A command that prints JSON reports the phases of its run, each of which is a figure, too. Their sum is the time to
    the first step. A command that prints text is measured until its first output.

    Args:
        item: `step` or `token`.
    """
    seconds: dict[str, list[float]] = {}
    for run in range(runs + 1):
        clock = time.perf_counter()
        process = _start(["-m", "sensenova_cli", *words], folder)
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 4096)
        found = time.perf_counter() - clock
        output = first + _wait(process, words)
        end = time.perf_counter() - clock
        phases = json.loads(output)["timings"] if "--json" in words else {}
        measured = {
            f"sensenova {name}, Enter to the first {item}": sum(phases.values()) if phases else found,
            f"sensenova {name}, Enter to the end": end,
            **{f"  of it, {phase}": each for phase, each in phases.items()},
        }
        for work, each in measured.items():
            seconds.setdefault(work, []).extend([each] if run else [])
    yield from (StartupFigure(work, tuple(each)) for work, each in seconds.items())


def _library(settings: LoadSettings, model: str, size: str, runs: int, folder: str) -> Iterator[StartupFigure]:
    """Measure loading and the first requests inside a process, without the program."""
    given = json.dumps({**settings.model_dump(), "model": model})
    words = ["-m", "model.bench.startup", given, size]
    seconds: dict[str, list[float]] = {}
    for run in range(runs + 1):
        process = _start(words, folder)
        for work, each in json.loads(_wait(process, words)).items():
            seconds.setdefault(work, []).extend([each] if run else [])
    yield from (StartupFigure(work, tuple(each)) for work, each in seconds.items())


def _start(words: Sequence[str], folder: str) -> "subprocess.Popen[bytes]":
    """Start Python in a folder, with this program's packages and without the user's settings."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SENSENOVA_")}
    environment |= {"SENSENOVA_CONFIG_DIR": folder, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _wait(process: "subprocess.Popen[bytes]", words: Sequence[str]) -> bytes:
    """Wait for the end of a process, and return the part of stdout that has not been read.

    Raises:
        SenseNovaError: the process failed.
    """
    output, problem = process.communicate()
    if process.returncode:
        lines = problem.decode(errors="replace").strip().splitlines() or ["no message"]
        raise SenseNovaError(f"a measured process failed: {lines[-1]}", f"run it alone: python {' '.join(words)}")
    return output
