"""The defaults that `--help` shows: those of the model and of the settings files in use.

They are read without checks and without pydantic, because help must answer at once and also when a file has a mistake.
`config.sources` reads the same layers with checks when a command runs.
"""

import contextlib
import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from config.declarations import DECLARATIONS
from config.errors import SettingsError
from config.profiles import PREFIX, PROJECT_FILE, RECOMMENDED_FILE, find_profile, user_file
from config.sizes import TRAINED_SIZES, format_size
from config.user_folder import has_user_folder


class Defaults(NamedTuple):
    """The values that settings have without flags.

    Attributes:
        values: setting → value. The settings of the server are not among them.
        model: the model in use; None for the demo.
        size: the model's own size of pictures, which `auto` stands for.
    """

    values: Mapping[str, Any]
    model: str | None
    size: str


def defaults_in_use(checkpoint: Callable[[str | None], Path | None], model: str | None = None) -> Defaults:
    """Return the values that settings have without flags.

    Args:
        checkpoint: model → its folder, if it is known without a search; None stands for the demo.
        model: the model that the command line names, instead of the one in the settings.
    """
    values = {name: declared.default for name, declared in DECLARATIONS.items()}
    configured: dict[str, Any] = {}
    for layer in _layers():
        configured |= {name: value for name, value in layer.items() if name in DECLARATIONS}
    named = model or configured.get("model")
    named = named if isinstance(named, str) else None
    folder = checkpoint(named)
    recommended = {} if folder is None else _read(folder / RECOMMENDED_FILE, json.loads)
    settings, sizes = recommended.get("settings"), recommended.get("trained_sizes")
    values |= settings if isinstance(settings, dict) else {}
    try:
        size = format_size(tuple(sizes[0]) if sizes else TRAINED_SIZES[0])
    except (TypeError, ValueError, LookupError):  # the file has a mistake, which a run of the model reports
        size = format_size(TRAINED_SIZES[0])
    return Defaults({**values, **configured}, named, size)


def _layers() -> Iterator[Mapping[str, Any]]:
    """Yield the settings of the files and of the environment, from the lowest layer to the highest."""
    if has_user_folder():
        yield _read(user_file(), tomllib.loads)
    yield _read(PROJECT_FILE, tomllib.loads)
    if profile := os.environ.get("SENSENOVA_PROFILE"):
        with contextlib.suppress(SettingsError):
            yield _read(find_profile(profile), tomllib.loads)
    yield {
        name.removeprefix(PREFIX).lower(): value
        for name, value in os.environ.items()
        if name.startswith(PREFIX) and value
    }


def _read(path: Path, parse: Callable[[str], Any]) -> Mapping[str, Any]:
    """Return the contents of a file, or nothing if it does not exist or has a mistake."""
    try:
        content = parse(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
