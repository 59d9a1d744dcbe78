"""The picture loop: from noise to a picture, one Euler step of the flow at a time."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from config.settings import ImageSettings
from config.sizes import TOKEN_PIXELS, Size
from model.events import Branch
from model.network.flow import picture_to_tokens, tokens_to_picture
from model.network.rope import Rotary, attention_rotary, image_positions, patch_rotary
from model.network.sensenova import SenseNovaU1
from model.network.transformer import together
from model.sampling.backend import Backend, RankGroup, record_event
from model.sampling.guidance import Guidance
from model.sampling.prefill import DenoiseState
from model.sampling.schedule import noise_amplitude, starting_noise, time_grid
from model.sampling.step_cache import StepCache


@dataclass(frozen=True)
class Step:
    """What one step left behind.

    Attributes:
        time: t after the step.
        predicted: the clean picture as predicted by the conditional branch, (1, 3, H, W).
        velocity: of the conditional branch, as tokens, (1, L, 3·32²), float32.
        tokens: the picture x after the step, likewise.
        layers: of the gen tower that were computed, by branch.
        wait: returns when the device has done the step, which it may still be at.
    """

    time: float
    predicted: Tensor
    velocity: Tensor
    tokens: Tensor
    layers: Mapping[Branch, int]
    wait: Callable[[], None]


@torch.inference_mode()
def denoise(
    backend: Backend,
    denoise_states: Mapping[Branch, DenoiseState],
    guidance: Guidance,
    size: Size,
    seed: int,
    settings: ImageSettings,
    cache: StepCache | None = None,
) -> Iterator[Step]:
    """Take the steps one by one; the last one's `tokens` are the picture.

    A branch that a step does not need is not computed. Where the device runs ahead, a step is yielded when the next
    one has been asked for: whoever stops there lets the device finish that one.

    The canvases' prefixes are left as they were, so that the next picture can start from them.

    Args:
        canvases: of all branches that a step needs and this process computes.
        seed: of the starting noise.
        settings: steps, shift, `t_eps` and where noise is drawn.
        cache: a new one, for layers to be skipped; without it every step runs all.
    """
    network = backend.network
    device, dtype = network.device, network.dtype
    grid = (size[1] // TOKEN_PIXELS, size[0] // TOKEN_PIXELS)
    flow, vision = network.config.flow, network.config.vision
    amplitude = noise_amplitude(grid[0] * grid[1], flow)
    noise_device = torch.device("cpu") if settings.noise == "cpu" else device
    noise = starting_noise(size, seed, noise_device, dtype).to(device)
    x = backend.group.broadcast(picture_to_tokens(noise) * amplitude)
    times = time_grid(settings.num_steps, settings.timestep_shift)
    starts = torch.tensor(times[:-1], dtype=torch.float32, device=device)
    relative_noise_scale = torch.tensor([amplitude / flow.noise_scale_max], device=device)
    conditioning = network.timestep_embedder(starts) + network.noise_scale_embedder(relative_noise_scale)
    patches = patch_rotary(2 * grid[0], 2 * grid[1], vision.hidden_size, vision.rope_theta, device)
    rotaries = {branch: _picture_rotary(network, state, grid) for branch, state in denoise_states.items()}

    prediction = _Prediction(network, backend.group, denoise_states, rotaries, patches, grid, backend.layer_by_layer)
    predict = backend.captured(prediction) if cache is None else _CachedPrediction(backend, prediction, cache)
    every_layer = network.config.transformer.layers
    pending: Step | None = None
    for number, (time, next_time) in enumerate(pairwise(times)):
        branches = guidance.needed(number, time)
        predicted = predict(branches, x, conditioning[number, None])
        current = x.float()
        clean = dict(zip(branches, predicted.split(1), strict=True))
        velocities = {
            branch: (each.float() - current) / max(1 - time, settings.t_eps) for branch, each in clean.items()
        }
        velocity = guidance.velocity(number, time, velocities)
        # x goes back to the model's dtype after every step, as in the reference implementation: published
        # seeds give the published pictures only so.
        x = (current + (next_time - time) * velocity).to(dtype)
        shown = step_picture(clean["condition"], size)
        layers = {branch: every_layer if cache is None else cache.computed[branch] for branch in branches}
        step = Step(next_time, shown, velocities["condition"], x, layers, record_event(device))
        if not backend.denoises_async:
            yield step
            continue
        # The device shall not stand still while a step is told: the next one has been asked for by then.
        if pending is not None:
            yield pending
        pending = step
    if pending is not None:
        yield pending


def step_picture(tokens: Tensor, size: Size) -> Tensor:
    """(1, L, 3·32²) → (1, 3, H, W)."""
    return tokens_to_picture(tokens, size[1] // TOKEN_PIXELS, size[0] // TOKEN_PIXELS)


@dataclass(frozen=True)
class _Prediction:
    """The clean picture in the eyes of each branch: (branches, L, 3·32²).

    No closure, and no comprehension where memory may run out: the frames of an error would keep the prefixes.
    """

    network: SenseNovaU1
    group: RankGroup
    denoise_states: Mapping[Branch, DenoiseState]
    rotaries: Mapping[Branch, Rotary]
    patches: Rotary
    grid: tuple[int, int]
    layer_by_layer: bool

    def __call__(self, branches: tuple[Branch, ...], x: Tensor, conditioning: Tensor) -> Tensor:
        own = self.group.own(branches)
        return self.group.all_gather(branches, self._predict(own, x, conditioning) if own else x[:0])

    def _predict(self, branches: tuple[Branch, ...], x: Tensor, conditioning: Tensor) -> Tensor:
        embeddings = self.embed("", x, conditioning)
        predicted = []
        for portion in self.portions(branches, x):
            rotaries = [self.rotaries[branch] for branch in portion]
            caches = [self.denoise_states[branch].cache for branch in portion]
            predicted.append(self.network.predict(embeddings, self.grid, rotaries, caches))
        return predicted[0] if len(predicted) == 1 else torch.cat(predicted)

    def portions(self, branches: tuple[Branch, ...], x: Tensor) -> list[tuple[Branch, ...]]:
        """The branches that go through the network together."""
        return [branches] if self.layer_by_layer else split_portions(branches, x.shape[1], x.device)

    # Its parts, each with a key for `Backend.captured`.

    def embed(self, key: str, x: Tensor, conditioning: Tensor) -> Tensor:
        """The gen tower's input, (1, L, hidden_size)."""
        return self.network.embed_noisy(x, conditioning, self.grid, self.patches)

    def run_layers(self, key: tuple[tuple[Branch, ...], range], hidden: Tensor) -> Tensor:
        """The layers of the key over the hidden states of its branches, (branches, L, hidden_size) → the same."""
        branches, layers = key
        rotaries = [self.rotaries[branch] for branch in branches]
        caches = [self.denoise_states[branch].cache for branch in branches]
        return self.network.draw(hidden, rotaries, caches, layers)

    def clean(self, key: int, hidden: Tensor) -> Tensor:
        """The clean picture of all `key` branches, of the gen tower's output."""
        return self.network.clean(hidden, self.grid)


class _CachedPrediction:
    """A `_Prediction` that skips layers. Which ones is decided in the middle of a step, by numbers that are there only
    then: its parts are repeated passes of their own."""

    def __init__(self, backend: Backend, prediction: _Prediction, cache: StepCache) -> None:
        self._cache = cache
        self._portions = prediction.portions
        self._embed = backend.captured(prediction.embed)
        self._layers = backend.captured(prediction.run_layers)
        self._clean = backend.captured(prediction.clean)

    def __call__(self, branches: tuple[Branch, ...], x: Tensor, conditioning: Tensor) -> Tensor:
        embeddings = self._embed("", x, conditioning)
        predicted = []
        for portion in self._portions(branches, x):
            hidden = self._cache.forward(portion, embeddings.repeat(len(portion), 1, 1), self._run)
            predicted.append(self._clean(len(portion), hidden))
        return predicted[0] if len(predicted) == 1 else torch.cat(predicted)

    def _run(self, branches: tuple[Branch, ...], layers: range, hidden: Tensor) -> Tensor:
        return self._layers((branches, layers), hidden)


def split_portions(branches: tuple[Branch, ...], tokens: int, device: torch.device) -> list[tuple[Branch, ...]]:
    """The branches of a picture of so many tokens that go through the network together."""
    return [branches] if together(len(branches), tokens, device) else [(branch,) for branch in branches]


def _picture_rotary(network: SenseNovaU1, state: DenoiseState, grid: tuple[int, int]) -> Rotary:
    positions = image_positions(state.next_position, *grid, network.device)
    return attention_rotary(positions, network.config.transformer, network.dtype)
