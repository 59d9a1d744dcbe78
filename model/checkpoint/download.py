"""Download a checkpoint from the Hugging Face Hub: sizes first, then file by file, with progress."""

import errno
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.recommended import RECOMMENDED_FILE
from model.checkpoint.hub_cache import cached_checkpoint, called
from model.errors import CheckpointError
from model.network.configuration import CONFIG_FILE

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

OFFICIAL_MODEL = "SenseNova/SenseNova-U1-8B-MoT"

CHECKPOINT_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")
"""What is downloaded of a Hub repository, from its top folder only: settings, weights and tokenizer."""


@dataclass(frozen=True)
class PlannedFile:
    """One file of a download: its name, its size in bytes, and whether it is there already."""

    name: str
    bytes: int
    cached: bool


@dataclass(frozen=True)
class DownloadPlan:
    """What is about to be downloaded.

    Attributes:
        model: the Hub id, `owner/name`.
        revision: the branch, tag or commit that was asked for.
        commit: the commit it stands for now.
        bytes_total: size of the whole checkpoint.
        bytes_to_fetch: what of it is not in the cache yet; files cut off by an interruption count in full.
        free_disk_bytes: room on the disk that holds the cache.
    """

    model: str
    revision: str
    commit: str
    files: tuple[PlannedFile, ...]
    bytes_total: int
    bytes_to_fetch: int
    free_disk_bytes: int
    cache_folder: Path


def download_checkpoint(
    model: str,
    revision: str,
    on_plan: Callable[[DownloadPlan], None] | None,
    on_progress: Callable[[int, int], None] | None,
) -> Path:
    """Bring a checkpoint into the cache and return its folder there; arguments as for `find_checkpoint`."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(model, revision=revision, files_metadata=True)
    except Exception as error:
        raise _explained(error, model, revision) from error
    plan = _plan(info, model, revision)
    if plan.bytes_to_fetch > plan.free_disk_bytes:
        raise CheckpointError(
            f"{model} needs {_gigabytes(plan.bytes_to_fetch)} more on the disk of {plan.cache_folder}, "
            f"where {_gigabytes(plan.free_disk_bytes)} are free",
            "free some space, or set HF_HOME to a folder on a larger disk",
        )
    if on_plan is not None and not all(file.cached for file in plan.files):
        on_plan(plan)
    try:
        return _download(plan, on_progress)
    except Exception as error:
        raise _explained(error, model, revision) from error


def download_card(model: str, revision: str) -> Path:
    """Bring what a checkpoint says about itself into the cache, without its weights, and return its folder there.

    Raises:
        CheckpointError: as for `find_checkpoint`.
    """
    from huggingface_hub import HfApi, hf_hub_download

    try:
        info = HfApi().model_info(model, revision=revision)
    except Exception as error:
        raise _explained(error, model, revision) from error
    names = {sibling.rfilename for sibling in info.siblings or ()}
    _require_config(model, names)
    try:
        # Fetch by commit. By the revision's name, the cache's `main` would point at this incomplete snapshot and hide a
        # complete older copy offline.
        commit = info.sha or revision
        if RECOMMENDED_FILE in names:
            hf_hub_download(model, RECOMMENDED_FILE, revision=commit)
        return Path(hf_hub_download(model, CONFIG_FILE, revision=commit)).parent
    except Exception as error:
        raise _explained(error, model, revision) from error


def download_file(model: str, choose: Callable[[list[str]], str]) -> Path:
    """Bring one file of a model into the cache, unless it is there, and return its place.

    Args:
        model: `owner/name` or `owner/name@revision`.
        choose: told the names of the model's files, says which.

    Raises:
        CheckpointError: there is no such model, or the Hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download

    name, _, revision = model.partition("@")
    revision = revision or "main"
    try:
        if constants.HF_HUB_OFFLINE:
            folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
            return folder / choose([str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()])
        chosen = choose(HfApi().list_repo_files(name, revision=revision))
        return Path(hf_hub_download(name, chosen, revision=revision))
    except Exception as error:
        raise _explained(error, name, revision) from error


def _plan(info: "ModelInfo", model: str, revision: str) -> DownloadPlan:
    from huggingface_hub import constants, try_to_load_from_cache

    commit = info.sha or revision
    files = [
        PlannedFile(
            name=sibling.rfilename,
            bytes=sibling.size or 0,
            cached=isinstance(try_to_load_from_cache(model, sibling.rfilename, revision=commit), str),
        )
        for sibling in info.siblings or ()
        if "/" not in sibling.rfilename and any(fnmatch(sibling.rfilename, pattern) for pattern in CHECKPOINT_FILES)
    ]
    _require_config(model, {file.name for file in files})
    cache_folder = Path(constants.HF_HUB_CACHE).expanduser()
    on_disk = next(folder for folder in (cache_folder, *cache_folder.absolute().parents) if folder.exists())
    return DownloadPlan(
        model=model,
        revision=revision,
        commit=commit,
        # Smallest first: what cannot work (a lost login, no index) shows before the gigabytes.
        files=tuple(sorted(files, key=lambda file: file.bytes)),
        bytes_total=sum(file.bytes for file in files),
        bytes_to_fetch=sum(file.bytes for file in files if not file.cached),
        free_disk_bytes=shutil.disk_usage(on_disk).free,
        cache_folder=cache_folder,
    )


def _require_config(model: str, names: Collection[str]) -> None:
    if CONFIG_FILE not in names:
        raise CheckpointError(
            f"{model} on the Hub is no checkpoint: it holds no {CONFIG_FILE}", f"try {OFFICIAL_MODEL}"
        )


def _download(plan: DownloadPlan, on_progress: Callable[[int, int], None] | None) -> Path:
    """Fetch what is missing, one file after another in this thread, so that Ctrl-C ends it at once."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    done = 0
    for file in plan.files:
        if not file.cached:
            bar = _progress_bar(done, plan.bytes_to_fetch, on_progress)
            hf_hub_download(plan.model, file.name, revision=plan.commit, tqdm_class=bar)
            done += file.bytes
            if on_progress is not None:
                on_progress(done, plan.bytes_to_fetch)
    known = try_to_load_from_cache(plan.model, CONFIG_FILE, revision=plan.revision)
    if not isinstance(known, str) or Path(known).parent.name != plan.commit:
        # Only a call by the revision's name lets the cache note which commit that is, for later offline use.
        # It comes last, so that the name never points at a half-downloaded commit.
        hf_hub_download(plan.model, CONFIG_FILE, revision=plan.revision)
    return Path(hf_hub_download(plan.model, CONFIG_FILE, revision=plan.commit)).parent


def _progress_bar(before: int, total: int, on_progress: Callable[[int, int], None] | None) -> type[Any]:
    """A class with the part of tqdm's interface that huggingface_hub uses, which draws nothing."""

    class ProgressBar:
        def __init__(self, *args: object, initial: int = 0, **kwargs: object) -> None:
            self.n = initial
            self.total: int | None = None

        def update(self, n: float | None = 1) -> None:
            self.n += int(n or 0)
            if on_progress is not None:
                on_progress(min(before + self.n, total), total)

        def update_transfer(self, n: float | None = 1) -> None:
            """Bytes from the network, which are counted when they reach the disk."""

        def __enter__(self) -> "ProgressBar":
            return self

        def __exit__(self, *args: object) -> None: ...

        def close(self) -> None: ...

        def refresh(self, *args: object, **kwargs: object) -> None: ...

        def set_description(self, *args: object, **kwargs: object) -> None: ...

        set_description_str = set_postfix_str = set_transfer_postfix_str = set_description

    return ProgressBar


def _explained(error: Exception, model: str, revision: str) -> CheckpointError:
    """What the user has to know of an error that huggingface_hub, or the HTTP library under it, raised."""
    from huggingface_hub import errors

    if isinstance(error, CheckpointError):
        return error
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        # Says only that the file is not in the cache either; its cause is why the Hub did not send it.
        error = error.__cause__
    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(
            f"{model} is gated: its owner gives access on request",
            f"ask for it on https://huggingface.co/{model}, then log in with: hf auth login",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(f"{model} has no revision {revision!r}", f"see https://huggingface.co/{model}/tree/main")
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return CheckpointError(
            f"there is no model {model} on the Hub, and no folder of that name here",
            f"check the name (the official one is {OFFICIAL_MODEL}); if it is private, run: hf auth login",
        )
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if status in (401, 403):
        return CheckpointError(f"the Hub refuses access to {model} (HTTP {status})", "log in with: hf auth login")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CheckpointError(
            f"the disk was full before {model} was downloaded",
            "free some space, or set HF_HOME to a folder on a larger disk; what is complete is kept",
        )
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CheckpointError(
            f"{error.filename or 'the cache folder'} cannot be written: {error.strerror}",
            "set HF_HOME to a folder of yours",
        )
    reason = f"HTTP {status}" if status is not None else (str(error).splitlines() or [type(error).__name__])[0]
    return CheckpointError(
        f"{called(model, revision)} could not be fetched from the Hub: {reason}",
        _hint_when_cached(model, revision),
    )


def _hint_when_cached(model: str, revision: str) -> str:
    try:
        cached_checkpoint(model, revision)
    except CheckpointError:
        return "check the network and try again: what is complete is kept"
    return "there is a copy in the cache: set HF_HUB_OFFLINE=1 to use it, or try again later"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
