"""Measurements as lines of text and as JSON."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sensenova_cli.render.progress import gigabytes, rate

if TYPE_CHECKING:
    from model.bench import Ceilings, Figure


def ceilings_line(ceilings: "Ceilings") -> str:
    """`this device alone: matrix product 735 TFLOP/s · copy 3.0 TB/s`."""
    return f"this device alone: matrix product {rate(ceilings.gemm, 'FLOP/s')} · copy {rate(ceilings.copy, 'B/s')}"


def figure_line(figure: "Figure") -> str:
    """`guided step 2048x2048    0.262 s   3.82 /s   603 TFLOP/s   82 %   peak 34.9 GB`, in columns."""
    share = f"{100 * figure.share:.0f} %" if figure.share is not None else ""
    reached = rate(figure.rate, figure.unit) if figure.rate else ""
    return (
        f"{figure.work:<44}{figure.seconds:>9.4f} s{1 / figure.seconds:>9.2f} /s"
        f"{reached:>15}{share:>7}   peak {gigabytes(figure.peak_memory)}"
    )


def measurements_json(about: Mapping[str, Any], ceilings: "Ceilings", figures: "list[Figure]") -> dict[str, Any]:
    """Everything of one run, rates in units without prefixes."""
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
            }
            for figure in figures
        ],
    }
