"""The denoising loop: from noise to a picture, one Euler step of the flow at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from config.settings import ImageSettings
from config.sizes import TOKEN_PIXELS, Size, half_size
from model.devices import record_event
from model.events import Branch
from model.network.flow import picture_to_tokens, tokens_to_picture
from model.network.operations import join_rows
from model.network.rope import Rotary, attention_rotary, image_positions, patch_rotary
from model.network.sensenova import SenseNovaU1
from model.sampling.backend import Backend, RankGroup
from model.sampling.guidance import Guidance
from model.sampling.ladder import count_draft_steps, draft_noise, enlarge, lift
from model.sampling.picture_guidance import PictureGuidance
from model.sampling.prefill import DenoiseState
from model.sampling.schedule import noise_amplitude, starting_noise, time_grid
from model.sampling.step_cache import StepCache


@dataclass(frozen=True)
class Step:
    """The result of one step.

    Attributes:
        time: t after the step.
        predicted: the clean picture as predicted by the condition branch, (1, 3, H, W); a draft is enlarged to H × W.
        velocity: the condition branch's velocity, as tokens, (1, L, 3·32²), float32; a draft has L/4 tokens.
        tokens: the picture x after the step, as tokens, (1, L, 3·32²), or those of the draft.
        layers: number of layers of the gen tower that each branch computed.
        wait: returns when the device has finished the step.
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
    """Yield the steps one by one. The last step's `tokens` are the picture.

    A branch that a step does not need is not computed. With asynchronous steps, each step is yielded after the next one
    has been launched. If the caller stops there, the device still finishes the next step.

    The prefixes stay unchanged, so that the next picture can start from them.

    Args:
        denoise_states: the states of all branches that a step needs and this rank computes.
        seed: the seed of the starting noise.
        settings: steps, shift, `t_eps`, `half_size_until`, and the device that draws the noise.
        cache: a new step cache, which skips layers; only without `half_size_until`. None: every step computes all
            layers.

    Raises:
        SettingsError: the size has no half, and some steps draft at half size.
    """
    network = backend.network
    device, dtype, group = network.device, network.dtype, backend.group
    times = time_grid(settings.num_steps, settings.timestep_shift)
    drafted = count_draft_steps(times, settings.half_size_until)
    noise_device = torch.device("cpu") if settings.noise == "cpu" else device
    noise = group.broadcast(starting_noise(size, seed, noise_device, dtype).to(device))
    stage = _Stage(backend, denoise_states, half_size(size) if drafted else size, times, cache)
    x = picture_to_tokens(draft_noise(noise) if drafted else noise) * stage.amplitude
    if not drafted:
        del noise
    guided = PictureGuidance(guidance, group.broadcast)
    every_layer = network.config.transformer.layers
    pending: Step | None = None
    for number, (time, next_time) in enumerate(pairwise(times)):
        branches = guided.begin_step(number, time)
        predicted = stage.predict(branches, x, stage.conditioning[number, None])
        current = x.float()
        clean = dict(zip(branches, predicted.split(1), strict=True))
        divisor = max(1 - time, settings.t_eps)
        velocities = {branch: (each.float() - current) / divisor for branch, each in clean.items()}
        velocity = guided.velocity(velocities)
        # x returns to the model's dtype after every step, as in the reference implementation. Otherwise published seeds
        # would not give the published pictures.
        x = (current + (next_time - time) * velocity).to(dtype)
        shown = step_picture(clean["condition"], stage.size)
        layers = {branch: every_layer if cache is None else cache.computed[branch] for branch in branches}
        tokens = x
        if number < drafted:
            shown = enlarge(shown)
        if number + 1 == drafted:
            draft = step_picture(current + divisor * velocity, stage.size)
            stage = _Stage(backend, denoise_states, size, times, cache)
            x = picture_to_tokens(lift(draft, noise, stage.amplitude, next_time)).to(dtype)
            guided.change_size()
            del noise
        step = Step(next_time, shown, velocities["condition"], tokens, layers, record_event(device))
        if not backend.denoises_async:
            yield step
            continue
        # The next step has been launched by now, so the device does not idle while the caller handles this one.
        if pending is not None:
            yield pending
        pending = step
    if pending is not None:
        yield pending


class _Stage:
    """The steps of one size: all of them, or those before or after a draft is enlarged.

    Attributes:
        size: width and height in pixels.
        amplitude: the standard deviation of this size's noise.
        conditioning: the embedding of each step's time and of the amplitude, (steps, hidden_size).
        predict: returns the branches' clean pictures, (branches, L, 3·32²), given the branches, the picture x as tokens
            and a row of `conditioning`.
    """

    def __init__(
        self,
        backend: Backend,
        denoise_states: Mapping[Branch, DenoiseState],
        size: Size,
        times: Sequence[float],
        cache: StepCache | None,
    ) -> None:
        network = backend.network
        device, flow, vision = network.device, network.config.flow, network.config.vision
        grid = (size[1] // TOKEN_PIXELS, size[0] // TOKEN_PIXELS)
        self.size = size
        self.amplitude = noise_amplitude(grid[0] * grid[1], flow)
        starts = torch.tensor(times[:-1], dtype=torch.float32, device=device)
        relative_noise_scale = torch.tensor([self.amplitude / flow.noise_scale_max], device=device)
        self.conditioning = network.timestep_embedder(starts) + network.noise_scale_embedder(relative_noise_scale)
        patches = patch_rotary(2 * grid[0], 2 * grid[1], vision.hidden_size, vision.rope_theta, device)
        rotaries = {branch: _picture_rotary(network, state, grid) for branch, state in denoise_states.items()}
        prediction = _Prediction(
            network, backend.group, denoise_states, rotaries, patches, grid, backend.layer_by_layer
        )
        self.predict: Callable[[tuple[Branch, ...], Tensor, Tensor], Tensor] = (
            backend.captured(prediction) if cache is None else _CachedPrediction(backend, prediction, cache)
        )


def kept_pictures(settings: ImageSettings, branches: int) -> int:
    """Return the most pictures that `denoise` keeps in memory between steps: the differences of `cfg_every`, and the
    noise with which `half_size_until` continues.

    Args:
        branches: branches of a guided step.
    """
    return (branches - 1 if settings.cfg_every > 1 else 0) + (1 if settings.half_size_until else 0)


def step_picture(tokens: Tensor, size: Size) -> Tensor:
    """Turn tokens into a picture: (1, L, 3·32²) → (1, 3, H, W)."""
    return tokens_to_picture(tokens, size[1] // TOKEN_PIXELS, size[0] // TOKEN_PIXELS)


@dataclass(frozen=True)
class _Prediction:
    """The prediction of each branch's clean picture: (branches, L, 3·32²).

    This is not a closure, and like `model.network.transformer.Block` it uses no comprehension where memory may run out.
    An error would otherwise keep the prefixes alive.
    """

    network: SenseNovaU1
    group: RankGroup
    denoise_states: Mapping[Branch, DenoiseState]
    rotaries: Mapping[Branch, Rotary]
    patches: Rotary
    grid: tuple[int, int]
    layer_by_layer: bool

    def __call__(self, branches: tuple[Branch, ...], x: Tensor, conditioning: Tensor) -> Tensor:
        own = self.group.own_branches(branches)
        return self.group.all_gather(branches, self._predict(own, x, conditioning) if own else x[:0])

    def _predict(self, branches: tuple[Branch, ...], x: Tensor, conditioning: Tensor) -> Tensor:
        embeddings = self.embed("", x, conditioning)
        predicted = []
        for batch in self.batches(branches, x):
            rotaries = [self.rotaries[branch] for branch in batch]
            caches = [self.denoise_states[branch].cache for branch in batch]
            predicted.append(self.network.predict(embeddings, self.grid, rotaries, caches))
        return join_rows(predicted)

    def batches(self, branches: tuple[Branch, ...], x: Tensor) -> list[tuple[Branch, ...]]:
        """Split the branches into batches that run through the network together."""
        if self.layer_by_layer or self.network.gen.operations.run_together(len(branches), x.shape[1]):
            return [branches]
        return [(branch,) for branch in branches]

    # The parts of a prediction. Each takes a key for `Backend.captured`.

    def embed(self, key: str, x: Tensor, conditioning: Tensor) -> Tensor:
        """Return the gen tower's input, (1, L, hidden_size)."""
        return self.network.embed_noisy(x, conditioning, self.grid, self.patches)

    def run_layers(self, key: tuple[tuple[Branch, ...], range], hidden: Tensor) -> Tensor:
        """Run the key's layers over the hidden states of its branches, (branches, L, hidden_size) → the same."""
        branches, layers = key
        rotaries = [self.rotaries[branch] for branch in branches]
        caches = [self.denoise_states[branch].cache for branch in branches]
        return self.network.draw(hidden, rotaries, caches, layers)

    def clean(self, key: int, hidden: Tensor) -> Tensor:
        """Return the clean pictures of all `key` branches, given the gen tower's output."""
        return self.network.clean(hidden, self.grid)


class _CachedPrediction:
    """A `_Prediction` with a step cache, which decides in the middle of a step whether to skip layers. Its parts are
    therefore captured one by one."""

    def __init__(self, backend: Backend, prediction: _Prediction, cache: StepCache) -> None:
        self._cache = cache
        self._batches = prediction.batches
        self._embed = backend.captured(prediction.embed)
        self._layers = backend.captured(prediction.run_layers)
        self._clean = backend.captured(prediction.clean)

    def __call__(self, branches: tuple[Branch, ...], x: Tensor, conditioning: Tensor) -> Tensor:
        embeddings = self._embed("", x, conditioning)
        predicted = []
        for batch in self._batches(branches, x):
            hidden = self._cache.forward(batch, embeddings.repeat(len(batch), 1, 1), self._run)
            predicted.append(self._clean(len(batch), hidden))
        return join_rows(predicted)

    def _run(self, branches: tuple[Branch, ...], layers: range, hidden: Tensor) -> Tensor:
        return self._layers((branches, layers), hidden)


def _picture_rotary(network: SenseNovaU1, state: DenoiseState, grid: tuple[int, int]) -> Rotary:
    positions = image_positions(state.next_position, *grid, network.device)
    return attention_rotary(positions, network.config.transformer, network.dtype)
