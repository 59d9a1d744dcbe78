"""Generate and edit: pictures from a prompt, or from a prompt and input images."""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from config.settings import ImageSettings
from config.sizes import TOKEN_PIXELS, Size, format_size, resolve_size
from model.errors import RequestError
from model.events import Branch, DenoisingStep, Event, Picture
from model.image_files import as_rgb
from model.inputs import prompts
from model.inputs.image_tensors import fit_to_budget, prepare_image, to_image, to_preview
from model.inputs.token_sequence import TokenSequence
from model.memory.estimate import Workload
from model.requests import EditRequest, GenerateRequest
from model.sampling.decode import CACHE_GROWTH
from model.sampling.denoise import denoise, kept_pictures, step_picture
from model.sampling.guidance import Guidance, guidance_of
from model.sampling.prefill import DenoiseState
from model.sampling.schedule import time_grid
from model.sampling.step_cache import StepCache, StepCacheConfig
from model.tasks.context import TaskContext
from model.tasks.notices import drawing_notices, guidance_notices
from model.tasks.prefixes import build_sequences, caching_prefixes, prefill_branches
from model.tasks.statistics import LayerTimer, StatisticsRecorder
from model.tasks.text import CLOSING_TOKENS, require_finite, think


@dataclass(frozen=True)
class PictureSeries:
    """The values that the pictures of a request share.

    Attributes:
        settings: the request's settings; `seed` is the first picture's seed, and each further picture adds 1.
        step_cache: None denoises without a step cache.
        count: the number of pictures, or their maximum.
        preview_every, preview_size: as in `GenerateRequest`.
    """

    size: Size
    guidance: Guidance
    settings: ImageSettings
    step_cache: StepCacheConfig | None
    count: int
    preview_every: int
    preview_size: int

    @property
    def image_tokens(self) -> int:
        """Tokens of one picture."""
        return self.size[0] * self.size[1] // TOKEN_PIXELS**2


def draw(context: TaskContext, request: GenerateRequest | EditRequest) -> Iterator[Event]:
    """Run a generate or edit request: prefill the branches, think if asked, then denoise each picture.

    Raises:
        RequestError: the request uses a step cache and several ranks share the model.
    """
    settings, model, recommended = request.settings, context.model, context.recommended
    step_cache = step_cache_config(context, settings)
    images = tuple(map(as_rgb, request.images)) if isinstance(request, EditRequest) else ()
    size = resolve_size(settings.size, recommended.trained_sizes, images[0].size if images else None)
    yield from drawing_notices(settings, size, recommended, model.adapters)
    pixels = _input_pixels(context, images, settings, size)
    texts, guidance = _branches(request, len(images))
    yield from guidance_notices(settings, guidance, texts)
    sequences = build_sequences(context, texts, pixels)
    series = PictureSeries(
        size, guidance, settings, step_cache, settings.num_images, request.preview_every, request.preview_size
    )
    yield from context.reserve_memory(_workload(series, sequences))
    recorder = StatisticsRecorder(model)
    lengths = {branch: len(sequence) for branch, sequence in sequences.items()}
    with caching_prefixes(context.prefix_cache) as cached:
        # With several ranks, each rank writes the think text. That takes no extra time, and all get the same tokens.
        local = {*model.backend.group.prefix_branches(tuple(texts))}
        if settings.think:
            local.add("condition")
        room = model.backend.room_for_picture(series.image_tokens)
        # Think text takes positions of its own. Otherwise the cache would be reallocated after it, which takes longer
        # than several tokens.
        written = min(settings.max_think_tokens, CACHE_GROWTH) + CLOSING_TOKENS if settings.think else 0
        # Only whole prefixes are reused. A prefill in other batches rounds differently, and then the bytes of a picture
        # would depend on earlier requests.
        yield from prefill_branches(
            context, sequences, pixels, recorder, cached, reserve=room + written, local=local, allow_partial=False
        )
        prefixes = {branch: each.prefix.fork() for branch, each in cached.items()}
        think_text = None
        if settings.think:
            condition = prefixes["condition"]
            prompt = sequences["condition"].ids.tolist()
            think_text = yield from think(context, condition, settings.max_think_tokens, room, recorder, prompt)
            lengths["condition"] = condition.cache.length
        with torch.inference_mode():
            denoise_states = model.backend.denoise_states(prefixes, series.image_tokens)
        for index in range(series.count):
            yield from draw_picture(context, series, index, denoise_states, lengths, think_text, recorder)
    yield recorder.statistics()


def draw_picture(
    context: TaskContext,
    series: PictureSeries,
    index: int,
    denoise_states: Mapping[Branch, DenoiseState],
    lengths: Mapping[Branch, int],
    think_text: str | None,
    recorder: StatisticsRecorder,
) -> Generator[Event, None, Tensor]:
    """Denoise one picture: yield a `DenoisingStep` for each step, then the `Picture`.

    Args:
        index: the picture's number, from 0.
        denoise_states: the states of this rank's branches, which stay unchanged.
        lengths: tokens of each branch's prefix, also of branches on other ranks.
        think_text: the think text that the prefix contains, or None.

    Returns:
        The picture as the network drew it, (1, 3, H, W), about −1..1, in the model's dtype on its device.

    Raises:
        NumericsError: the picture has values that are NaN or infinite.
    """
    settings, size, backend = series.settings, series.size, context.model.backend
    seed = settings.seed + index
    cache = StepCache(series.step_cache) if series.step_cache else None
    layer_timer, before = LayerTimer(context.model.config.transformer.layers), recorder.denoising.seconds
    steps = denoise(backend, denoise_states, series.guidance, size, seed, settings, cache)
    for number, step in enumerate(recorder.denoising.measure(steps), start=1):
        recorder.count_step(step.layers, lengths, step.tokens.shape[1])
        layer_timer.add_step(step.layers, recorder.denoising.seconds - before)
        before = recorder.denoising.seconds
        if context.trace is not None:
            context.trace.predicted.append(step.predicted)
            context.trace.velocities.append(step.velocity)
        has_preview = series.preview_every > 0 and number % series.preview_every == 0
        preview = _preview(context, step.predicted, series.preview_size) if has_preview else None
        yield DenoisingStep(index, series.count, number, settings.num_steps, step.time, preview)
    drawn = step_picture(step.tokens, size)
    require_finite(drawn, "picture", context.model.dtype)
    if context.trace is not None:
        context.trace.pictures.append(drawn.float().cpu())
    made_with = settings.model_copy(update={"size": format_size(size), "seed": seed, "num_images": 1})
    summary = layer_timer.summary(cache.summaries()) if cache else None
    yield Picture(index, series.count, to_image(drawn), made_with, think_text, summary)
    return drawn


def step_cache_config(context: TaskContext, settings: ImageSettings) -> StepCacheConfig | None:
    """Return the step cache of a request's pictures, or None.

    Raises:
        RequestError: several ranks share the model.
    """
    if not settings.cache_options:
        return None
    config = StepCacheConfig.of(settings.cache_options, context.model.config.transformer.layers)
    if context.model.is_shared:
        raise RequestError("`cache` works on one GPU only: each GPU would skip other layers", "use `cache=off`")
    return config


def _input_pixels(
    context: TaskContext, images: tuple[Image.Image, ...], settings: ImageSettings, size: Size
) -> list[Tensor]:
    """Resize and normalise the input images of an edit."""
    if not images:
        return []
    limits = context.recommended.edit_limits(len(images))
    return [prepare_image(image, limits) for image in fit_to_budget(images, settings.input_pixels, size)]


def _branches(request: GenerateRequest | EditRequest, images: int) -> tuple[dict[Branch, str], Guidance]:
    """Return the prompts of the branches that any step needs, and the guidance."""
    settings = request.settings
    guidance = guidance_of(request)
    if isinstance(request, EditRequest):
        condition = prompts.edit_prompt(request.prompt, images, settings.think)
    else:
        condition = prompts.generate_prompt(request.prompt, settings.think)
    texts: dict[Branch, str] = {
        "condition": condition,
        "images": prompts.images_prompt(images),
        "unconditional": prompts.unconditional_prompt(settings.negative),
    }
    starts = time_grid(settings.num_steps, settings.timestep_shift)[:-1]
    return {branch: texts[branch] for branch in guidance.ever_needed(starts)}, guidance


def _workload(series: PictureSeries, sequences: Mapping[Branch, TokenSequence]) -> Workload:
    """Return the request's workload. Its prefixes include the think text at its longest."""
    prefixes = {branch: len(sequence) for branch, sequence in sequences.items()}
    if series.settings.think:
        prefixes["condition"] += series.settings.max_think_tokens
    cached_states = series.step_cache.states_per_branch if series.step_cache else 0
    kept = kept_pictures(series.settings, len(prefixes))
    return Workload(series.image_tokens, tuple(prefixes.values()), cached_states, kept_pictures=kept)


def _preview(context: TaskContext, predicted: Tensor, longer_side: int) -> Image.Image:
    """Make a preview of a finished step. On CUDA this does not wait for the next step, which already runs."""
    if context.preview_stream is None:
        return to_preview(predicted, longer_side)
    with torch.cuda.stream(context.preview_stream):
        return to_preview(predicted, longer_side)
