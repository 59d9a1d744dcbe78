"""When the denoising steps are taken, and what they start from."""

import math

import torch
from torch import Tensor

from model.network.configuration import FlowConfig


def time_grid(steps: int, shift: float) -> list[float]:
    """The `steps` + 1 times from 0 (noise) to 1 (picture).

    An even grid whose noise fraction σ = 1 − t is moved to shift·σ / (1 + (shift − 1)·σ): a shift above 1 spends
    more steps near the noise (Esser et al. 2024, arXiv:2403.03206, eq. 23).
    """
    sigma = 1 - torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    times = (1 - shift * sigma / (1 + (shift - 1) * sigma)).tolist()
    return [0.0, *times[1:-1], 1.0]  # the ends are exact, whatever the shift rounds to


def noise_amplitude(tokens: int, config: FlowConfig) -> float:
    """Standard deviation of the starting noise of a picture of this many tokens: larger pictures start louder."""
    return min(config.noise_scale_max, config.noise_scale * math.sqrt(tokens / config.noise_scale_base_tokens))


def starting_noise(size: tuple[int, int], seed: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Standard normal noise, (1, 3, H, W), from a generator on `device` in `dtype`.

    Both are part of the picture's identity: another device or dtype draws other numbers from the same seed.
    """
    width, height = size
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(1, 3, height, width, generator=generator, device=device, dtype=dtype)
