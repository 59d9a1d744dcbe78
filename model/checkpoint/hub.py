"""Search for checkpoints: the built-in demo, a folder, or a Hugging Face Hub id, which is downloaded when needed."""

import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from config.mentions import mention
from config.model_names import full_name
from model.checkpoint.builtin import DEMO_CHECKPOINT, DEMO_MODEL
from model.checkpoint.download import DownloadPlan, download_card, download_checkpoint
from model.checkpoint.hub_cache import cached_checkpoint, cached_folder
from model.checkpoint.hub_errors import OFFICIAL_MODEL
from model.errors import CheckpointError
from model.network.configuration import CONFIG_FILE

__all__ = ["OFFICIAL_MODEL", "DownloadPlan", "find_card", "find_checkpoint", "local_checkpoint"]

_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+?)(?:@(?P<revision>\S+))?", re.ASCII)


def find_checkpoint(
    model: str,
    *,
    on_plan: Callable[[DownloadPlan], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    with_weights: bool = True,
) -> Path:
    """Return the folder of a checkpoint. Download the checkpoint first if it is not on this machine.

    `demo` is the built-in checkpoint, and `u1-8b` and the like stand for Hub ids. An existing folder wins over a Hub id
    of the same name. With HF_HUB_OFFLINE=1 only the Hub cache is searched. An interrupted download continues with the
    files that are missing.

    Args:
        model: `demo`, a folder, or a Hub id `owner/name` or `owner/name@revision`.
        on_plan: called before a download starts; not called if nothing has to be downloaded.
        on_progress: called during the download with (bytes done, bytes to fetch). An exception in it ends the download.
        with_weights: False if only the configuration and the tokenizer are needed, because the weights are elsewhere.

    Returns:
        A folder that holds `config.json`.

    Raises:
        CheckpointError: the folder or model does not exist or is not a checkpoint, the Hub cannot be reached or
            refuses, the model is not in the cache while offline, or the disk is too small.
    """
    found = _locate(model, with_weights)
    return found if isinstance(found, Path) else download_checkpoint(*found, on_plan, on_progress, with_weights)


def find_card(model: str) -> Path:
    """Return a folder that holds a checkpoint's small descriptions, perhaps without its weights.

    For a Hub id only `config.json` and the recommended settings are downloaded, a few kilobytes. Arguments and errors
    as for `find_checkpoint`.
    """
    found = _locate(model)
    return found if isinstance(found, Path) else download_card(*found)


def _locate(model: str, with_weights: bool = True) -> Path | tuple[str, str]:
    """Return a checkpoint's folder on this machine, or the name and revision of a model on the Hub. While offline, look
    a Hub id up in the Hub cache."""
    if model == DEMO_MODEL:
        return DEMO_CHECKPOINT
    model = full_name(model)
    try:
        folder = Path(model).expanduser()
        if folder.is_dir():
            return _checked_folder(folder)
        is_file = folder.is_file()
    except (OSError, RuntimeError) as error:  # RuntimeError: the home of ~nobody
        raise CheckpointError(f"{model} cannot be read: {error}", "check its name and permissions") from error
    if is_file:
        raise CheckpointError(
            f"{model} is a file; a checkpoint is the folder that holds {CONFIG_FILE} and the weights",
            f"try {folder.parent}" if (folder.parent / CONFIG_FILE).is_file() else _hint_for_file(model),
        )
    hub_id = _HUB_ID.fullmatch(model)
    if model.startswith((".", "~")) or folder.is_absolute() or (hub_id is None and re.search(r"[/\\]", model)):
        raise CheckpointError(f"there is no checkpoint folder {model}", _similar_folder(folder))
    if hub_id is None:
        raise CheckpointError(
            f"there is no folder {model!r} here, and it is not a Hub id of the form owner/name", _similar_folder(folder)
        )
    from huggingface_hub import constants

    name, revision = hub_id["name"], hub_id["revision"] or "main"
    return cached_checkpoint(name, revision, with_weights) if constants.HF_HUB_OFFLINE else (name, revision)


def _hint_for_file(name: str) -> str:
    if name.endswith((".gguf", ".safetensors")):
        return f"name that folder or the model's Hub id, and use {mention('weights', name)}"
    return "name that folder"


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form `owner/name` or `owner/name@revision`."""
    return _HUB_ID.fullmatch(name) is not None


def local_checkpoint(model: str) -> Path | None:
    """Return a checkpoint's folder if it is on this machine already, as a folder or in the Hub cache, else None.

    The checkpoint may be incomplete: its small descriptions can be read all the same.
    """
    if model == DEMO_MODEL:
        return DEMO_CHECKPOINT
    model = full_name(model)
    try:
        folder = Path(model).expanduser()
        if folder.is_dir():
            return folder
    except (OSError, RuntimeError):  # a name too long for the file system; the home of ~nobody
        return None
    hub_id = _HUB_ID.fullmatch(model)
    return cached_folder(hub_id["name"], hub_id["revision"] or "main") if hub_id else None


def _checked_folder(folder: Path) -> Path:
    if (folder / CONFIG_FILE).is_file():
        return folder
    # People often name the parent folder: a collection of checkpoints, or a model in the Hub cache.
    inner = sorted([*folder.glob(f"*/{CONFIG_FILE}"), *folder.glob(f"snapshots/*/{CONFIG_FILE}")])
    if inner:
        raise CheckpointError(
            f"the folder {folder} has no {CONFIG_FILE}, but a folder in it does", f"try {inner[0].parent}"
        )
    names = sorted(path.name for path in folder.iterdir())
    contents = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    raise CheckpointError(
        f"the folder {folder} is not a checkpoint: it has no {CONFIG_FILE} ({contents or 'it is empty'})",
        f"name the folder of a whole checkpoint, or a Hub id such as {OFFICIAL_MODEL}",
    )


def _similar_folder(folder: Path) -> str:
    """Return a hint for a missing folder: a folder with a similar name beside it."""
    if folder.parent.is_dir():
        names = [path.name for path in folder.parent.iterdir() if path.is_dir()]
        for near in get_close_matches(folder.name, names, n=1):
            return f"did you mean {folder.parent / near}?"
    return f"check the path, or name a Hub id such as {OFFICIAL_MODEL}"
