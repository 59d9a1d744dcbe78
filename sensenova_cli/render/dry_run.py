"""The plan of a run that has not begun, as text and as JSON (`--dry-run`)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config.units import count_of, format_memory
from sensenova_cli.render.json import print_json
from sensenova_cli.render.table import plain_table, print_table
from sensenova_cli.system.unicode import printable

MAX_ITEMS = 20
"""Most items that are printed as text."""
MAX_PROMPT = 200
"""Longest prompt that is printed as text, in characters."""
UNKNOWN = "unknown until such a picture has been made here; to predict it: sensenova doctor"


@dataclass(frozen=True)
class Estimate:
    """What a run needs, as far as earlier runs have shown it.

    Attributes:
        seconds: seconds of the run with loading; None if no earlier run has shown it.
        peak: peak of memory in bytes; None if no picture of this size was made before.
        placement: number format and device of the last such run; empty if there was none.
        is_scaled: whether the seconds are those of another size, in proportion to the pixels.
    """

    seconds: float | None = None
    peak: int | None = None
    placement: str = ""
    is_scaled: bool = False

    def __str__(self) -> str:
        if self.seconds is None:
            return UNKNOWN
        peak = f", peak {format_memory(self.peak)}" if self.peak else ""
        basis = " (from pictures of another size)" if self.is_scaled else ""
        return f"about {rough_seconds(self.seconds)}{peak}{basis}"


@dataclass(frozen=True)
class PlannedItem:
    """One item of a run.

    Attributes:
        prompt: the prompt or question.
        settings: its settings that differ from their defaults, as JSON values, with seed and size of its first picture.
        origins: where each of these settings comes from.
        files: the files that would be written, `-` for standard output.
        notes: the notices that the run would print.
    """

    prompt: str
    settings: Mapping[str, Any]
    origins: Mapping[str, str]
    files: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class PlannedRun:
    """A run that has not begun.

    Attributes:
        task: its kind.
        model: the model's name.
        is_here: whether the model's files are on this machine, or on a server; otherwise a run downloads them.
        loaded: load settings that differ from their defaults, as JSON values.
        inputs: the input pictures, as the user named them.
        existing: number of pictures that exist already and would be skipped.
        estimate: None for answers, whose length only the model knows.
        sheet: the file of a sheet with all pictures; empty for none.
    """

    task: str
    model: str
    is_here: bool
    loaded: Mapping[str, Any]
    items: Sequence[PlannedItem]
    inputs: Sequence[str] = ()
    existing: int = 0
    estimate: Estimate | None = None
    sheet: str = ""

    @property
    def notes(self) -> list[str]:
        """The notices that the run would print, each once."""
        return list(dict.fromkeys(note for item in self.items for note in item.notes))


def rough_seconds(seconds: float) -> str:
    """Format an estimated duration without figures that nobody can know: `40 s`, `14 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    minutes = 5 * round(minutes / 5)
    return f"{minutes // 60} h {minutes % 60:02} min"


def print_plan(run: PlannedRun) -> None:
    """Print a plan on stdout: what all items share, then a line for each item."""
    table = plain_table()
    for name, value in _shared(run):
        table.add_row(name, printable(value))
    print_table(table)
    if not run.items:
        return
    print()
    common = _common(run.items)
    lines = plain_table()
    for item in run.items[:MAX_ITEMS]:
        own = ", ".join(f"{name} {value}" for name, value in item.settings.items() if name not in common)
        prompt = " ".join(item.prompt.split())
        cells = [_files(item.files), own, prompt if len(prompt) <= MAX_PROMPT else prompt[:MAX_PROMPT] + "…"]
        lines.add_row(*map(printable, filter(None, cells)))
    print_table(lines)
    if len(run.items) > MAX_ITEMS:
        print(f"… and {len(run.items) - MAX_ITEMS} more; --json prints all of them")


def print_plan_json(run: PlannedRun) -> None:
    """Print a plan as one JSON object on stdout."""
    estimate = run.estimate
    print_json(
        {
            "dry_run": True,
            "task": run.task,
            "model": run.model,
            "is_here": run.is_here,
            "loaded": dict(run.loaded),
            "inputs": list(run.inputs),
            "items": [
                {"prompt": item.prompt, "settings": dict(item.settings), "origins": dict(item.origins),
                 "files": list(item.files)}
                for item in run.items
            ],
            "existing": run.existing,
            "estimate": None if estimate is None else {
                "seconds": None if estimate.seconds is None else round(estimate.seconds, 1),
                "peak_bytes": estimate.peak,
                "placement": estimate.placement or None,
                "from_another_size": estimate.is_scaled,
            },
            "notes": run.notes,
            **({"sheet": run.sheet} if run.sheet else {}),
        }
    )  # fmt: skip


def _shared(run: PlannedRun) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each line that is about the whole run."""
    count = sum(len(item.files) for item in run.items)
    existing = f"; {run.existing} more exist already" if run.existing else ""
    if run.task == "interleave":
        yield "would make", f"an answer with at most {count_of(count, 'picture')}"
    elif run.task in ("describe", "chat"):
        yield "would make", "an answer"
    else:
        yield "would make", f"{count_of(count, 'picture')}{existing}"
    if run.sheet:
        yield "sheet", run.sheet
    yield "model", run.model if run.is_here else f"{run.model}, which would be downloaded first"
    if run.loaded:
        yield "loaded with", ", ".join(f"{name} {value}" for name, value in run.loaded.items())
    if run.inputs:
        yield "from", ", ".join(run.inputs)
    if common := _common(run.items):
        origins = run.items[0].origins
        yield "settings", ", ".join(f"{name} {_shown(value)} ({origins[name]})" for name, value in common.items())
    if run.estimate is not None and run.items:
        yield "placement", run.estimate.placement or "decided when the model is loaded"
        yield "time", str(run.estimate)


def _common(items: Sequence[PlannedItem]) -> dict[str, Any]:
    """Return the settings that all items share."""
    first = items[0].settings if items else {}
    return {name: value for name, value in first.items() if all(item.settings.get(name) == value for item in items)}


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _files(files: Sequence[str]) -> str:
    return " … ".join(files if len(files) < 3 else (files[0], files[-1]))
