"""Pictures for comparisons: drawing them with the demo checkpoint, and measures of their similarity."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from config.settings import ImageSettings
from model.demo.training.judging import psnr
from model.engine import Engine
from model.events import Picture
from model.requests import GenerateRequest

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


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
    return median_and_least(
        ssim(np.asarray(one.image), np.asarray(other.image)) for one, other in zip(ours, theirs, strict=True)
    )


def median_and_least(figures: Iterable[float]) -> dict[str, float]:
    """Return the median and the least of the figures."""
    listed = list(figures)
    return {"median": statistics.median(listed), "least": min(listed)}


def ssim(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the structural similarity of two RGB pictures, (height, width, 3) uint8; it is 1 for equal pictures.

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", IEEE
    Transactions on Image Processing 13(4), 2004, equation 13: a Gaussian window of 11 pixels, sigma 1.5, K1 0.01, K2
    0.03; the mean over all windows inside the picture, and over the three channels.
    """
    x, y = (torch.from_numpy(picture.astype(np.float64)).permute(2, 0, 1)[:, None] for picture in (ours, theirs))
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    line = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    line /= line.sum()
    window = torch.outer(line, line)[None, None]
    mean_x, mean_y, xx, yy, xy = (F.conv2d(values, window) for values in (x, y, x * x, y * y, x * y))
    variance_x, variance_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    c1, c2 = (K1 * 255) ** 2, (K2 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return float((luminance * structure).mean())
