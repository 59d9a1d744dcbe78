"""Summary of the step cache for one picture, as a table and as JSON."""

from typing import Any

from rich import box
from rich.table import Table

from model import CacheSummary


def cache_table(summary: CacheSummary) -> Table:
    """Return a table with one row per guidance branch; its caption has the saved time of all branches."""
    share = summary.layers_computed / summary.layers
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=f"{100 * share:.0f} % of the layers computed, in {summary.seconds:.1f} s; "
        f"about {summary.seconds_saved:.1f} s saved",
        caption_justify="left",
    )
    table.add_column("branch")
    for heading in ("computed", "reused", "least", "25 %", "median", "75 %", "most"):
        table.add_column(heading, justify="right")
    for branch in summary.branches:
        differences = [f"{value:.3f}" for value in branch.quartiles] or ["–"] * 5
        table.add_row(branch.branch, str(branch.computed_steps), str(branch.reused_steps), *differences)
    return table


def cache_json(summary: CacheSummary) -> dict[str, Any]:
    """Return the numbers of `cache_table`, and every difference between steps."""
    return {
        "branches": {
            branch.branch: {
                "computed_steps": branch.computed_steps,
                "reused_steps": branch.reused_steps,
                "differences": [round(value, 6) for value in branch.differences],
                "difference_quartiles": [round(value, 6) for value in branch.quartiles],
            }
            for branch in summary.branches
        },
        "layers_computed": summary.layers_computed,
        "layers": summary.layers,
        "seconds": round(summary.seconds, 3),
        "seconds_saved": round(summary.seconds_saved, 3),
    }
