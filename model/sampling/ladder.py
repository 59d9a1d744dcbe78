"""The resolution ladder: the first steps draft a picture at half its size, and the others finish it at full size.

A draft has a quarter of the tokens. The amplitude of the noise grows with the square root of the number of tokens, so
that the mean of 2×2 pixels of a picture's noise is the noise of its half, with the amplitude of that size. The draft
therefore starts from the noise of the picture itself, and both stages have the same layout.

Between two steps, at time t, the draft's predicted clean picture x̂ is enlarged in pixel space and gets the noise that
a picture of the full size has at this time: x = t·up(x̂) + (1 − t)·A·ε, with A the full size's amplitude. There is no
autoencoder, so nothing is lost between the stages (after MrFlow, arXiv:2607.01642).
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

ENLARGE = 2
"""Ratio of the picture's sides to those of its draft."""


def count_draft_steps(times: Sequence[float], until: float) -> int:
    """Return the number of steps that draft at half size: those that start before `until`, but never the last step.

    Args:
        times: the times between the steps, from `time_grid`.
    """
    return min(sum(time < until for time in times[:-1]), len(times) - 2) if until else 0


def draft_noise(noise: Tensor) -> Tensor:
    """Return the standard normal noise of a draft, given that of the picture: (1, 3, H, W) → (1, 3, H/2, W/2)."""
    return (F.avg_pool2d(noise.float(), ENLARGE) * ENLARGE).to(noise.dtype)


def enlarge(picture: Tensor) -> Tensor:
    """Return a draft in the size of the picture: (1, 3, H/2, W/2) → (1, 3, H, W), in the same dtype."""
    larger = F.interpolate(picture.float(), scale_factor=ENLARGE, mode="bicubic", align_corners=False)
    return larger.to(picture.dtype)


def lift(predicted: Tensor, noise: Tensor, amplitude: float, time: float) -> Tensor:
    """Return the noisy picture at `time` with which the steps at full size begin, (1, 3, H, W) float32.

    Args:
        predicted: the clean picture that the draft's last step predicts, with guidance, (1, 3, H/2, W/2) float32.
        noise: the picture's standard normal noise, (1, 3, H, W).
        amplitude: the noise amplitude of the full size.
    """
    return time * enlarge(predicted) + (1 - time) * amplitude * noise.float()
