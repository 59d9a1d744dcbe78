"""What denoising steps reuse of earlier ones: the presets of `cache`, and what the settings beside it change."""

from dataclasses import dataclass
from typing import Literal

CachePreset = Literal["off", "careful", "balanced", "fast"]
DEFAULT_PRESET: CachePreset = "balanced"
"""What `--cache-backend cache_dit` stands for."""


@dataclass(frozen=True)
class CacheOptions:
    """When the layers behind the first ones may be skipped, and what takes their place.

    Attributes:
        threshold: how much what the first layers add may differ from the last step in which all were computed, as
            the mean absolute difference by the mean absolute value; 0 exclusive, and 1 is no limit.
        warmup_steps: of each branch, which are computed in full, 1 or more.
        longest_run: most steps in a row that are reused, 1 or more.
        first_layers, last_layers: computed in every step; at least 1 and 0.
        taylor_order: of the series that continues what the skipped layers added; 0 repeats it.
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
"""Chosen by what they do to pictures of the demo checkpoint: docs/caching.md."""
