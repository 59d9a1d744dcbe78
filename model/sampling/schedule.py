"""The schedule of denoising: the times of the steps, and the noise that they start from."""

import math

import torch
from torch import Tensor

from model.network.configuration import FlowConfig


def time_grid(steps: int, shift: float) -> list[float]:
    """Return the `steps` + 1 times from 0 (noise) to 1 (picture).

    The noise fractions σ = 1 − t of an even grid are moved to shift·σ / (1 + (shift − 1)·σ): a shift above 1 spends
    more steps near the noise (Esser et al. 2024, arXiv:2403.03206, eq. 23).
    """
    sigma = 1 - torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    times = (1 - shift * sigma / (1 + (shift - 1) * sigma)).tolist()
    return [0.0, *times[1:-1], 1.0]  # the formula rounds, but the ends must be exact


def noise_amplitude(tokens: int, config: FlowConfig) -> float:
    """Return the standard deviation of a picture's starting noise. It grows with the picture's number of tokens."""
    return min(config.noise_scale_max, config.noise_scale * math.sqrt(tokens / config.noise_scale_base_tokens))


def starting_noise(size: tuple[int, int], seed: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return standard normal noise, (1, 3, H, W), from a generator on `device` in `dtype`.

    With another device or dtype the same seed gives another picture.
    """
    width, height = size
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(1, 3, height, width, generator=generator, device=device, dtype=dtype)
