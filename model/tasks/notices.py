"""What a user is told of settings that do not go together with the model, or with one another: nothing is refused."""

from collections.abc import Iterator, Sequence
from dataclasses import fields

from config.settings import ImageSettings
from config.sizes import Size, format_size, nearest_trained
from config.step_cache import CacheOptions
from model.checkpoint.lora import Adapter
from model.events import Notice


def untrained_size(size: Size, trained: Sequence[Size]) -> Iterator[Notice]:
    """A picture's size that the model was not trained on."""
    if size not in trained:
        nearest = format_size(nearest_trained(size, trained))
        yield Notice(f"{format_size(size)} is no size this model was trained on; the nearest one is {nearest}")


def mismatched_lora(adapter: Adapter, settings: ImageSettings) -> Iterator[Notice]:
    """A LoRA's own settings that a request does not have."""
    made_for = {name: value for name, value in adapter.settings.items() if name in ImageSettings.model_fields}
    others = {name: value for name, value in made_for.items() if getattr(settings, name) != value}
    if others:
        wanted = ", ".join(f"{name} {value}" for name, value in others.items())
        given = ", ".join(f"{getattr(settings, name)}" for name in others)
        yield Notice(f"the LoRA {adapter.lora.name} is made for {wanted}, not {given}")


def idle_cache_options(settings: ImageSettings) -> Iterator[Notice]:
    """Settings of a cache that is off."""
    names = (f"cache_{field.name}" for field in fields(CacheOptions))
    idle = [name for name in names if getattr(settings, name) is not None]
    if settings.cache == "off" and idle:
        yield Notice(f"{', '.join(idle)}: no effect while cache is off")
