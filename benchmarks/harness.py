"""Arguments, facts, result files and tables that all benchmarks share.

A benchmark makes its parser here, measures, and calls `finish`, which writes the JSON file and prints a table.
Progress goes to stderr, so that stdout contains only the table.
"""

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

DTYPES = ("bfloat16", "float16", "float32")
TABLE_WIDTH = 140
"""Width of tables in columns if stdout is not a terminal."""


def parser(
    description: str, *, model: str = "", models: str = "", device: str = "", dtype: str = ""
) -> argparse.ArgumentParser:
    """Return a parser with `--output`, and with `--model`, `--device` and `--dtype` if their defaults are not empty.

    Args:
        description: the benchmark's docstring.
        model, device, dtype: defaults of these arguments.
        models: the help of `--model`.
    """
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if model:
        made.add_argument("--model", default=model, help=f"{models} (default: {model})")
    if device:
        made.add_argument("--device", default=device, help=f"auto, cpu, cuda or mps (default: {device})")
    if dtype:
        made.add_argument("--dtype", default=dtype, choices=DTYPES, help=f"number format (default: {dtype})")
    # The commands in older result files say --json.
    made.add_argument("--output", "--json", type=Path, metavar="FILE", help="write the result here, as JSON")
    return made


def progress(text: str) -> None:
    """Print one line to stderr while the measurement is running."""
    print(text, file=sys.stderr, flush=True)


def command() -> str:
    """Return the command line that makes this result."""
    return shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])


def facts(device: Any = None) -> dict[str, Any]:
    """Return the command line, the machine and the versions.

    Args:
        device: a torch.device or its name; None leaves the device out.
    """
    # Imported after the measurement: on Linux a child process inherits its parent's peak resident set.
    import torch

    from model.bench.machine import cpu_name, device_name

    found = {
        "command": command(),
        "machine": ", ".join(filter(None, (platform.machine(), platform.system(), cpu_name()))),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device is not None:
        found["device"] = device_name(torch.device(device))
    return found


def write(file: Path | None, result: Mapping[str, Any]) -> None:
    """Write a result as JSON, unless no file is named."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=1) + "\n")


def table(*columns: str, rows: Iterable[Iterable[str]] = (), title: str = "") -> Table:
    """Return a table whose first column is aligned left and whose others are aligned right."""
    made = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left")
    for row in rows:
        made.add_row(*row)
    return made


def show(shown: Table) -> None:
    """Print a table to stdout, as wide as the terminal or `TABLE_WIDTH`."""
    Console(width=None if sys.stdout.isatty() else TABLE_WIDTH).print(shown)


def save(options: argparse.Namespace, result: Mapping[str, Any], device: Any = None) -> None:
    """Write the facts and the result to `--output`. A long measurement does it after each part, so that a run that is
    stopped keeps the parts before."""
    write(options.output, {**facts(device), **result})


def finish(options: argparse.Namespace, result: Mapping[str, Any], shown: Table, device: Any = None) -> None:
    """Save the result, then print the table."""
    save(options, result, device)
    show(shown)


@dataclass(frozen=True)
class Bar:
    """A figure and its limit.

    Attributes:
        name: the name of the figure.
        figure: the measured value; None if it was not measured.
        value: the limit.
        unit: the unit of both.
        at_least: whether the limit is a minimum; otherwise it is a maximum.
    """

    name: str
    figure: float | None
    value: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the figure was measured and is within the limit."""
        if self.figure is None:
            return False
        return self.figure >= self.value if self.at_least else self.figure <= self.value


def bars_table(bars: Iterable[Bar], title: str = "") -> Table:
    """Return a table of figures, their bars and whether each bar is met."""
    made = table("", "measured", "bar", "", title=title)
    for bar in bars:
        figure = "not measured" if bar.figure is None else f"{bar.figure:.3g} {bar.unit}"
        made.add_row(bar.name, figure, f"{bar.value:g} {bar.unit}", "met" if bar.met else "not met")
    return made
