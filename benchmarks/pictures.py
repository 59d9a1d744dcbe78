"""Pictures for comparisons: drawing them with the demo checkpoint, and measures of their similarity."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from config.settings import ImageSettings
from model.demo.training.judging import psnr
from model.engine import Engine
from model.events import Picture
from model.requests import GenerateRequest
from sensenova_cli.comparing.likeness import ssim


def recommended_settings(engine: Engine, **changes: Any) -> ImageSettings:
    """Return the picture settings that a checkpoint recommends, with some changed."""
    recommended = {**engine.card.recommended.settings, **changes}
    return ImageSettings(**{name: value for name, value in recommended.items() if name in ImageSettings.model_fields})


def draw(engine: Engine, prompts: Iterable[str], settings: ImageSettings) -> list[Picture]:
    """Draw one picture of each prompt."""
    return [
        next(event for event in engine.run(GenerateRequest(prompt, settings)) if isinstance(event, Picture))
        for prompt in prompts
    ]


def psnr_of_pairs(ours: Sequence[Picture], theirs: Sequence[Picture]) -> dict[str, float]:
    """Return the median and the least PSNR of pairs of pictures, in dB."""
    return median_and_least(
        psnr(np.asarray(one.image), np.asarray(other.image)) for one, other in zip(ours, theirs, strict=True)
    )


def ssim_of_pairs(ours: Sequence[Picture], theirs: Sequence[Picture]) -> dict[str, float]:
    """Return the median and the least structural similarity of pairs of pictures."""
    figures = (ssim(one.image, other.image) for one, other in zip(ours, theirs, strict=True))
    return median_and_least(figure for figure in figures if figure is not None)


def median_and_least(figures: Iterable[float]) -> dict[str, float]:
    """Return the median and the least of the figures."""
    listed = list(figures)
    return {"median": statistics.median(listed), "least": min(listed)}
