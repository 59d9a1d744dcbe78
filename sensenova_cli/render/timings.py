"""The phases of a run and their seconds, for `--timings`."""

from collections.abc import Mapping

from rich.table import Table

from model import PHASES
from sensenova_cli.render.table import plain_table


def timings_table(seconds: Mapping[str, float]) -> Table:
    """Return a table with a row for each phase, and their sum."""
    table = plain_table()
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for name, each in seconds.items():
        table.add_row(name, f"{each:.2f} s", PHASES[name])
    table.add_row("together", f"{sum(seconds.values()):.2f} s", "from the start of the process")
    return table


def timings_json(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds for `--json`, with underscores in the names."""
    return {name.replace(" ", "_"): round(each, 3) for name, each in seconds.items()}
