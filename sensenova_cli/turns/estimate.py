"""The estimate of a run before it starts: its time and its memory, from measurements of earlier runs."""

from collections.abc import Sequence

from config.recommended import Recommended
from config.settings import LoadSettings
from sensenova_cli.render.dry_run import Estimate
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.existing_pictures import picture_size
from sensenova_cli.turns.measurements import Measured, drawing_settings, read_measurements, speed_key

LONG_SECONDS = 60.0
"""A run that takes longer is announced with its estimate."""
SCALE = 2.5
"""Largest ratio of pixels at which the time of a picture follows from that of another size. Small pictures take longer
than in proportion, because a device is not busy with them."""


def estimate_run(turns: Sequence[Turn], load: LoadSettings, recommended: Recommended) -> Estimate:
    """Estimate a run that makes pictures.

    Args:
        load: the settings to load the model with.
    """
    measured = read_measurements()
    seconds, peak, is_scaled = 0.0, 0, False
    latest: Measured | None = None
    keys: dict[tuple[object, ...], str] = {}  # a run may have 10,000 turns, whose keys are mostly the same
    for turn in turns:
        decisive = drawing_settings(turn.settings, turn.task.kind)
        key = keys.get(decisive) or keys.setdefault(decisive, speed_key(turn.settings, load, turn.task.kind))
        width, height = picture_size(turn, recommended)
        pixels = width * height
        known = [each for each in measured if each.key == key and pixels / SCALE <= each.pixels <= pixels * SCALE]
        if not known:
            return Estimate()
        latest = min(known, key=lambda each: abs(each.pixels - pixels))
        scale = pixels / latest.pixels
        settings = turn.settings
        seconds += settings.num_images * (settings.num_steps * latest.step_seconds * scale + latest.extra_seconds)
        is_scaled = is_scaled or scale != 1
        peak = max(peak, latest.peak)
    if latest is None:
        return Estimate(0.0)
    return Estimate(seconds + latest.load_seconds, None if is_scaled else peak, latest.placement, is_scaled)
