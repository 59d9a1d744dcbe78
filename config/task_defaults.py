"""Settings that differ for one task, without pydantic, because help shows them."""

from collections.abc import Mapping
from typing import Any

INTERLEAVE_DEFAULTS: Mapping[str, Any] = {"think": True, "max_tokens": 8192}
"""Defaults of interleaved answers that differ from those of other tasks."""
EDIT_ONLY = frozenset(("img_cfg_scale", "input_pixels"))
INTERLEAVE_ONLY = frozenset(("max_images",))
WITHOUT_EFFECT: Mapping[str, frozenset[str]] = {
    "generate": EDIT_ONLY,
    "interleave": frozenset(("num_images", "max_think_tokens", "input_pixels")),
    "describe": INTERLEAVE_ONLY,
    "chat": INTERLEAVE_ONLY,
}
"""Task → settings of its pictures and texts that have no effect on it. The model decides the number of pictures of an
interleaved answer, and thinking is part of its text."""


def applying(settings: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return the settings that have an effect on a task: `generate`, `edit`, `describe`, `chat` or `interleave`."""
    return {name: value for name, value in settings.items() if name not in WITHOUT_EFFECT.get(task, ())}
