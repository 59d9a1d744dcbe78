"""Picture settings that earlier versions of the program do not know."""

from collections.abc import Mapping
from typing import Any

from config.settings import ImageSettings

LATER_SETTINGS = ("negative", "cfg_every", "cfg_stop", "half_size_until")
"""Picture settings that were added after the first version of records and requests. Both leave them out at their
defaults: an earlier version could not read such a record, and its server would report settings that it ignores."""


def without_later_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by name, without those of `LATER_SETTINGS` that have their defaults."""
    return {
        name: value
        for name, value in settings.items()
        if name not in LATER_SETTINGS or value != ImageSettings.model_fields[name].default
    }
