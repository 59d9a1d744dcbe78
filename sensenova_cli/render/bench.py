"""Measurements of `sensenova bench` as text and as JSON."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from config.units import format_memory
from sensenova_cli.render.progress import format_rate
from sensenova_cli.render.table import plain_table

if TYPE_CHECKING:
    from model.bench import Ceilings, Energy, Figure, ServerFigure
    from sensenova_cli.commands.startup import StartupFigure


def ceilings_line(ceilings: "Ceilings") -> str:
    """Return a line such as `this device alone: matrix product 735 TFLOP/s · copy 3.0 TB/s`."""
    gemm, copy = format_rate(ceilings.gemm, "FLOP/s"), format_rate(ceilings.copy, "B/s")
    return f"this device alone: matrix product {gemm} · copy {copy}"


def figure_row(figure: "Figure") -> Table:
    """Return a figure as a table of one row, so that it can be printed as soon as it is measured.

    A row looks like `guided step 2048x2048   0.2620 s   3.82 /s   603 TFLOP/s   82 %  peak 32.5 GiB`. With energy, it
    ends with `182 J  695 W  1480 MHz`. Minimum widths align the rows of several tables.
    """
    table = plain_table()
    table.add_column(min_width=42)
    for width in (11, 10, 13, 5):
        table.add_column(min_width=width, justify="right")
    table.add_column(min_width=13)
    table.add_column()
    table.add_row(
        figure.work,
        f"{figure.seconds:.4f} s",
        f"{1 / figure.seconds:.2f} /s",
        format_rate(figure.rate, figure.unit) if figure.rate else "",
        f"{100 * figure.share:.0f} %" if figure.share is not None else "",
        f"peak {format_memory(figure.peak_memory)}",
        energy_text(figure.energy) if figure.energy else "",
    )
    return table


def energy_text(energy: "Energy") -> str:
    """Return a text such as `182 J  695 W  1480 MHz`."""
    joules = f"{energy.joules:.3g} J" if energy.joules < 1000 else f"{energy.joules / 1000:.3g} kJ"
    return f"{joules}  {energy.watts:.0f} W  {energy.megahertz:.0f} MHz"


def server_figure_row(figure: "ServerFigure") -> Table:
    """Return a figure of a server as a table of one row, such as `answer of 64 tokens   2.1030 s   35.1 tokens/s`."""
    table = plain_table()
    table.add_column(min_width=46)
    table.add_column(min_width=11, justify="right")
    table.add_column(min_width=18, justify="right")
    table.add_row(figure.work, f"{figure.seconds:.4f} s", f"{figure.rate:.1f} {figure.unit}" if figure.rate else "")
    return table


def server_figures_json(about: Mapping[str, Any], figures: "list[ServerFigure]") -> dict[str, Any]:
    """Return all measurements of a server. Keys that figures of this machine have, too, have the same meaning."""
    return {
        **about,
        "figures": [
            {
                "work": figure.work,
                "seconds": figure.seconds,
                "rate": figure.rate or None,
                "unit": figure.unit or None,
            }
            for figure in figures
        ],
    }


def energy_json(energy: "Energy | None") -> dict[str, float] | None:
    """Return the energy of a figure; None if it was not measured."""
    if energy is None:
        return None
    return {
        "joules": energy.joules,
        "watts": energy.watts,
        "sm_clock_mhz": energy.megahertz,
        "measured_seconds": energy.seconds,
    }


def measurements_json(
    about: Mapping[str, Any], ceilings: "Ceilings", figures: "list[Figure]", *, with_energy: bool = False
) -> dict[str, Any]:
    """Return all measurements of a run. Rates are in FLOP/s or B/s, without prefixes.

    Args:
        with_energy: whether the figures have the key `energy`, which is null for those without energy.
    """
    return {
        **about,
        "ceilings": {"gemm_flops_per_second": ceilings.gemm, "copy_bytes_per_second": ceilings.copy},
        "figures": [
            {
                "work": figure.work,
                "seconds": figure.seconds,
                "rate": figure.rate or None,
                "unit": figure.unit if figure.rate else None,
                "share_of_ceiling": figure.share,
                "peak_memory_bytes": figure.peak_memory,
                **({"energy": energy_json(figure.energy)} if with_energy else {}),
            }
            for figure in figures
        ],
    }


def startup_row(figure: "StartupFigure") -> Table:
    """Return a figure of new processes as a table of one row: the median, the shortest and the longest time."""
    table = plain_table()
    table.add_column(min_width=48)
    table.add_column(min_width=9, justify="right")
    table.add_column()
    low, high = min(figure.runs), max(figure.runs)
    table.add_row(figure.work, f"{figure.seconds:.3f} s", f"{low:.3f} to {high:.3f}")
    return table


def startup_json(about: Mapping[str, Any], figures: "list[StartupFigure]") -> dict[str, Any]:
    """Return all measurements of new processes; `seconds` is the median of `runs`."""
    return {
        **about,
        "figures": [{"work": figure.work, "seconds": figure.seconds, "runs": list(figure.runs)} for figure in figures],
    }
