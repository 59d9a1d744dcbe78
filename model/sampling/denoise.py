"""The picture loop: from noise to a picture, one Euler step of the flow at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from config.schema import ImageSettings
from config.sizes import TOKEN_PIXELS, Size
from model.events import Branch
from model.network.flow import picture_to_tokens, tokens_to_picture
from model.network.rope import Rotary, attention_rotary, image_positions, patch_rotary
from model.network.sensenova import SenseNovaU1
from model.sampling.guidance import Guidance
from model.sampling.prefix import Prefix
from model.sampling.schedule import noise_amplitude, starting_noise, time_grid


@dataclass(frozen=True)
class Step:
    """What one step left behind.

    Attributes:
        time: t after the step.
        predicted: the clean picture as predicted by the conditional branch, as tokens, (1, L, 3·32²).
        velocity: of the conditional branch, like `predicted`, float32.
        tokens: the picture x after the step, like `predicted`.
    """

    time: float
    predicted: Tensor
    velocity: Tensor
    tokens: Tensor


@torch.inference_mode()
def denoise(
    network: SenseNovaU1,
    prefixes: Mapping[Branch, Prefix],
    guidance: Guidance,
    size: Size,
    seed: int,
    settings: ImageSettings,
) -> Iterator[Step]:
    """Take the steps one by one; the last one's `tokens` are the picture.

    A branch that a step does not need is not computed. The prefixes are left as they were, so that the next
    picture can start from them.

    Args:
        prefixes: of all branches that a step needs. Each cache has room for the picture's tokens.
        seed: of the starting noise.
        settings: steps, shift, `t_eps` and where noise is drawn.
    """
    device, dtype = network.device, network.dtype
    grid = (size[1] // TOKEN_PIXELS, size[0] // TOKEN_PIXELS)
    flow, vision = network.config.flow, network.config.vision
    amplitude = noise_amplitude(grid[0] * grid[1], flow)
    noise_device = torch.device("cpu") if settings.noise == "cpu" else device
    noise = starting_noise(size, seed, noise_device, dtype).to(device)
    x = picture_to_tokens(noise) * amplitude
    times = time_grid(settings.num_steps, settings.timestep_shift)
    starts = torch.tensor(times[:-1], dtype=torch.float32, device=device)
    relative_noise_scale = torch.tensor([amplitude / flow.noise_scale_max], device=device)
    conditioning = network.timestep_embedder(starts) + network.noise_scale_embedder(relative_noise_scale)
    patches = patch_rotary(2 * grid[0], 2 * grid[1], vision.hidden_size, vision.rope_theta, device)
    rotaries = {branch: _picture_rotary(network, prefix, grid) for branch, prefix in prefixes.items()}
    for number, (time, next_time) in enumerate(pairwise(times)):
        embeddings = network.embed_noisy(x, conditioning[number, None], grid, patches)
        current = x.float()
        clean: dict[Branch, Tensor] = {}
        for branches in _portions(guidance.needed(number, time), device):
            rotary = _stacked([rotaries[branch] for branch in branches])
            caches = [prefixes[branch].cache for branch in branches]
            predicted = network.predict(embeddings, grid, rotary, caches)
            clean.update(zip(branches, predicted.split(1), strict=True))
        velocities = {
            branch: (predicted.float() - current) / max(1 - time, settings.t_eps) for branch, predicted in clean.items()
        }
        velocity = guidance.velocity(number, time, velocities)
        # x goes back to the model's dtype after every step, as in the reference implementation: published
        # seeds give the published pictures only so.
        x = (current + (next_time - time) * velocity).to(dtype)
        yield Step(next_time, clean["condition"], velocities["condition"], x)


def step_picture(tokens: Tensor, size: Size) -> Tensor:
    """(1, L, 3·32²) → (1, 3, H, W)."""
    return tokens_to_picture(tokens, size[1] // TOKEN_PIXELS, size[0] // TOKEN_PIXELS)


def _portions(branches: tuple[Branch, ...], device: torch.device) -> list[tuple[Branch, ...]]:
    """The branches that are computed together: on a GPU all, on a CPU each by itself, which is what is faster there
    (docs/performance.md)."""
    return [(branch,) for branch in branches] if device.type == "cpu" else [branches]


def _stacked(rotaries: Sequence[Rotary]) -> Rotary:
    """Tables (L, head_dim) of several branches → (branches, 1, L, head_dim)."""
    cosines, sines = zip(*rotaries, strict=True)
    return torch.stack(cosines)[:, None], torch.stack(sines)[:, None]


def _picture_rotary(network: SenseNovaU1, prefix: Prefix, grid: tuple[int, int]) -> Rotary:
    positions = image_positions(prefix.next_position, *grid, network.device)
    return attention_rotary(positions, network.config.transformer, network.dtype)
