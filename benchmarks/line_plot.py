"""Plots as SVG: panels below each other, with one series each, over a common horizontal axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, TOP = 640, 110, 56, 26
"""Size of a panel's axes, and the room beside and above them, in pixels."""
STYLE = (
    "text{font:12px sans-serif;fill:#333}.axis{fill:none;stroke:#bbb}.line{fill:none;stroke:#2563eb;stroke-width:1.2}"
    ".dot{fill:#2563eb;fill-opacity:.6}"
)


@dataclass(frozen=True)
class Panel:
    """A series of values from the first item on, over an axis that begins at 0.

    Attributes:
        dots: draw dots, not a line.
        most: top of the axis, at which larger values are drawn; None for a top above the largest value.
    """

    title: str
    values: Sequence[float]
    dots: bool = False
    most: float | None = None


def plot(axis: str, panels: Sequence[Panel]) -> str:
    """Return the SVG.

    Args:
        axis: name of the horizontal axis.
    """
    height = len(panels) * (HEIGHT + TOP) + TOP
    drawn = [_panel(panel, number * (HEIGHT + TOP) + TOP) for number, panel in enumerate(panels)]
    count = max(len(panel.values) for panel in panels)
    bottom = height - 8
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} {height}">',
            f"<style>{STYLE}</style>",
            '<rect width="100%" height="100%" fill="#fff"/>',
            *drawn,
            f'<text x="{LEFT}" y="{bottom}">{escape(axis)} 1</text>',
            f'<text x="{LEFT + WIDTH}" y="{bottom}" text-anchor="end">{count}</text>',
            "</svg>",
            "",
        ]
    )


def _panel(panel: Panel, top: int) -> str:
    most = panel.most or max(panel.values) * 1.1 or 1.0
    points = [
        (LEFT + WIDTH * number / max(1, len(panel.values) - 1), top + HEIGHT * (1 - min(value, most) / most))
        for number, value in enumerate(panel.values)
    ]
    if panel.dots:
        series = "".join(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="1.5"/>' for x, y in points)
    else:
        series = f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'
    return "\n".join(
        [
            f'<text x="{LEFT}" y="{top - 6}">{escape(panel.title)}</text>',
            f'<rect class="axis" x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}"/>',
            f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{most:.3g}</text>',
            f'<text x="{LEFT - 6}" y="{top + HEIGHT}" text-anchor="end">0</text>',
            series,
        ]
    )
