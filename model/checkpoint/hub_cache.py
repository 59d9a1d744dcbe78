"""The Hub cache: checkpoints that were downloaded before, found without the network."""

from pathlib import Path

from config.json_files import read_json
from model.checkpoint.file_names import INDEX_FILE
from model.errors import CheckpointError
from model.network.configuration import CONFIG_FILE

REPOSITORY_PREFIX = "models--"
"""Start of the name of a model's folder in the Hub cache. `owner/name` follows, with `--` in place of the slash."""


def hub_cache_folder() -> Path:
    """Return the folder of the Hub cache, which need not exist."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE).expanduser()


def cached_checkpoint(model: str, revision: str, with_weights: bool = True) -> Path:
    """Return the folder of the cached copy.

    Raises:
        CheckpointError: there is no cached copy, or it lacks weight files.
    """
    folder = cached_folder(model, revision)
    if folder is None:
        raise CheckpointError(
            f"{display_name(model, revision)} is not in the cache, and HF_HUB_OFFLINE forbids downloading it",
            "unset HF_HUB_OFFLINE, or name a checkpoint folder",
        )
    missing = missing_weights(folder) if with_weights else None
    if missing:
        raise CheckpointError(
            f"the copy of {display_name(model, revision)} in the cache is incomplete: {missing} is missing, "
            "and HF_HUB_OFFLINE forbids downloading it",
            "unset HF_HUB_OFFLINE to fetch the rest",
        )
    return folder


def cached_folder(model: str, revision: str) -> Path | None:
    """Return the folder of the cached copy, complete or not; None if there is no copy."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(model, CONFIG_FILE, revision=revision)
    except HFValidationError:  # some names of the form owner/name are not valid ids
        return None
    return Path(config).parent if isinstance(config, str) else _copied_snapshot(model, revision)


def _copied_snapshot(model: str, revision: str) -> Path | None:
    """Return the snapshot of a cache that was copied by hand, whose note about the revision is missing or has another
    form than the library writes; None if it is not clear which snapshot is meant, or if weights are missing: a download
    that was interrupted has no note either."""
    folder = hub_cache_folder() / f"{REPOSITORY_PREFIX}{model.replace('/', '--')}"
    try:
        note = folder / "refs" / revision
        named = note.read_text(encoding="utf-8").strip() if note.is_file() else ""
        snapshots = [
            each
            for each in (folder / "snapshots").iterdir()
            if (each / CONFIG_FILE).is_file() and missing_weights(each) is None
        ]
    except (OSError, UnicodeDecodeError, CheckpointError):
        return None
    if named:
        return next((each for each in snapshots if each.name == named), None)
    return snapshots[0] if revision == "main" and len(snapshots) == 1 else None


def missing_weights(folder: Path) -> str | None:
    """Return the first weight file that a cached checkpoint lacks, or None."""
    index = folder / INDEX_FILE
    if not index.is_file():
        return None if any(folder.glob("*.safetensors")) else "model.safetensors"
    try:
        shards = set(read_json(index)["weight_map"].values())
        return next((shard for shard in sorted(shards) if not (folder / shard).is_file()), None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index} is damaged ({error})", "remove it from the Hub cache and download it again"
        ) from error


def display_name(model: str, revision: str) -> str:
    """Return the name of a Hub model as messages show it."""
    return model if revision == "main" else f"{model}@{revision}"
