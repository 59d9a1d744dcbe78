"""Options of the step cache: the presets of the setting `cache`."""

from dataclasses import dataclass
from typing import Literal

CachePreset = Literal["off", "careful", "balanced", "fast"]
DEFAULT_PRESET: CachePreset = "balanced"
"""Preset of `--cache-backend cache_dit`."""


@dataclass(frozen=True)
class CacheOptions:
    """Conditions under which a denoising step skips its middle layers, and the prediction of their residual.

    Attributes:
        threshold: largest difference of the first layers' residual from that of the last full step, as mean absolute
            difference / mean absolute value; above 0, and 1 means no limit.
        warmup_steps: number of first steps of each branch that compute all layers; at least 1.
        longest_run: maximum number of consecutive steps that skip layers; at least 1.
        first_layers, last_layers: numbers of layers that every step computes; at least 1 and 0.
        taylor_order: order of the Taylor series that predicts the skipped layers' residual; 0 repeats the last one.
    """

    threshold: float
    warmup_steps: int
    longest_run: int
    first_layers: int
    last_layers: int
    taylor_order: int


PRESETS: dict[CachePreset, CacheOptions] = {
    "careful": CacheOptions(0.12, 8, 2, 1, 0, 0),
    "balanced": CacheOptions(0.24, 4, 3, 1, 0, 0),
    "fast": CacheOptions(0.6, 4, 6, 1, 0, 0),
}
"""Chosen by measurements with the demo checkpoint; see docs/exactness.md."""
