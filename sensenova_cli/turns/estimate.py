"""The estimate of a run before it starts: its time and its memory, from measurements of earlier runs."""

from collections.abc import Sequence

from config.recommended import Recommended
from config.settings import LoadSettings
from config.sizes import parse_size
from sensenova_cli.render.dry_run import Estimate
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.existing_pictures import picture_settings
from sensenova_cli.turns.measurements import Measured, read_measurements, speed_key

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
    for turn in turns:
        key = speed_key(turn.settings, load, turn.task.kind)
        size = parse_size(picture_settings(turn, recommended).size)
        assert size is not None
        pixels = size[0] * size[1]
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
