"""Notices about settings that do not suit the model or each other. Such a request still runs."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields

from config.mentions import mention
from config.recommended import Recommended
from config.settings import ImageSettings
from config.sizes import Size, format_size, half_size, nearest_trained
from config.step_cache import CacheOptions
from config.units import count_of
from model.checkpoint.lora import Adapter
from model.events import Branch, Notice
from model.sampling.guidance import Guidance
from model.sampling.ladder import count_draft_steps
from model.sampling.picture_guidance import FIRST_STEPS, MEASURED_STEPS_BEFORE
from model.sampling.schedule import time_grid


def drawing_notices(
    settings: ImageSettings, size: Size, recommended: Recommended, adapters: Sequence[Adapter]
) -> Iterator[Notice]:
    """Yield the notices of a generate or edit request.

    Args:
        size: the resolved size of its pictures.
        adapters: the merged LoRAs.

    Raises:
        SettingsError: as for `draft_notices`.
    """
    for adapter in adapters:
        yield from mismatched_lora(adapter, settings)
    yield from idle_cache_options(settings)
    yield from draft_notices(settings, size, recommended.trained_sizes)
    if settings.size != "auto":  # with `auto` an edit follows its picture's aspect: the user did not choose the size
        yield from untrained_size(size, recommended.trained_sizes)


def untrained_size(size: Size, trained: Sequence[Size]) -> Iterator[Notice]:
    """Yield a notice if the model was not trained on this size."""
    if size not in trained:
        nearest = format_size(nearest_trained(size, trained))
        yield Notice(
            f"This model was not trained on {format_size(size)}, so the picture may be broken; nearest: {nearest}"
        )


def draft_notices(settings: ImageSettings, size: Size, trained: Sequence[Size]) -> Iterator[Notice]:
    """Yield a notice if `half_size_until` drafts at a size that the model was not trained on, or not at all.

    Raises:
        SettingsError: the size has no half.
    """
    if not settings.half_size_until:
        return
    draft = half_size(size)
    if not count_draft_steps(time_grid(settings.num_steps, settings.timestep_shift), settings.half_size_until):
        yield Notice(f"`half_size_until` has no effect on {count_of(settings.num_steps, 'step')}: none of them drafts")
    elif draft not in trained:
        yield Notice(
            f"`half_size_until` drafts at {format_size(draft)}, on which this model was not trained: the picture may "
            "be broken"
        )


def mismatched_lora(adapter: Adapter, settings: ImageSettings) -> Iterator[Notice]:
    """Yield a notice if the LoRA was made for other settings than the request has."""
    made_for = {name: value for name, value in adapter.settings.items() if name in ImageSettings.model_fields}
    others = {name: value for name, value in made_for.items() if getattr(settings, name) != value}
    if others:
        wanted = ", ".join(f"{name} {value}" for name, value in others.items())
        given = ", ".join(f"{getattr(settings, name)}" for name in others)
        yield Notice(f"the LoRA {adapter.lora.name} is made for {wanted}, not {given}")


def negative_notices(settings: ImageSettings, guidance: Guidance, needed: Collection[Branch]) -> Iterator[Notice]:
    """Yield a notice if the negative words have no effect, or lead the picture towards what they name.

    Args:
        guidance: the guidance of the request's pictures.
        needed: the branches that at least one step computes.
    """
    if not settings.negative:
        return
    if "unconditional" not in guidance.branches:
        is_edit = "images" in guidance.branches
        way = "`img_cfg_scale` is above 1" if is_edit else "guidance is on, with `cfg_scale` above 1"
        yield Notice(f"`negative` has no effect here: it is used where {way}")
    elif "unconditional" not in needed:
        yield Notice("`negative` has no effect here: no step has guidance in this `cfg_interval`")
    elif "images" in guidance.branches and settings.img_cfg_scale < 1:
        yield Notice("with `img_cfg_scale` below 1 the picture is led towards `negative`, not away from it")


def guidance_notices(settings: ImageSettings, guidance: Guidance, needed: Collection[Branch]) -> Iterator[Notice]:
    """Yield the notices about settings of guidance that have no effect: `negative`, `cfg_every` and `cfg_stop`.

    Args:
        guidance, needed: as for `negative_notices`.
    """
    yield from negative_notices(settings, guidance, needed)
    times = time_grid(settings.num_steps, settings.timestep_shift)
    guided = sum(len(guidance.needed(number, time)) > 1 for number, time in enumerate(times[:-1]))
    idle = []
    if settings.cfg_every > 1 and guided <= FIRST_STEPS:
        idle.append(mention("cfg_every"))
    if settings.cfg_stop and guided <= MEASURED_STEPS_BEFORE:
        idle.append(mention("cfg_stop"))
    if idle:
        steps = "no step has guidance" if not guided else f"guidance is used in {count_of(guided, 'step')}"
        yield Notice(f"{' and '.join(idle)}: no effect, because {steps} here")


def idle_cache_options(settings: ImageSettings) -> Iterator[Notice]:
    """Yield a notice if options of the step cache are set while it is off."""
    names = (f"cache_{field.name}" for field in fields(CacheOptions))
    idle = [name for name in names if getattr(settings, name) is not None]
    if settings.cache == "off" and idle:
        yield Notice(f"{', '.join(idle)}: no effect while cache is off")
