"""Downloads from the Hugging Face Hub: a plan with sizes first, then one file after another, with progress."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from config.recommended import RECOMMENDED_FILE
from config.units import format_bytes
from model.checkpoint.hub_cache import cached_folder, hub_cache_folder
from model.checkpoint.hub_errors import OFFICIAL_MODEL, explained_errors
from model.errors import CheckpointError
from model.network.configuration import CONFIG_FILE

WEIGHT_FILES = "*.safetensors"
CHECKPOINT_FILES = ("*.json", WEIGHT_FILES, "*.txt", "*.jinja", "*.model")
"""Files of a Hub repository's top folder that belong to a checkpoint: settings, weights and tokenizer."""


@dataclass(frozen=True)
class PlannedFile:
    """One file of a download: its name, its size in bytes, and whether the Hub cache holds it."""

    name: str
    bytes: int
    cached: bool


@dataclass(frozen=True)
class DownloadPlan:
    """Files that a checkpoint needs, and the disk that they go to.

    Attributes:
        model: the Hub id, `owner/name`.
        revision: the branch, tag or commit that was asked for.
        commit: the commit that the revision stands for now.
        files: the checkpoint's files, smallest first: a lost login shows before the gigabytes.
        free_disk_bytes: free space on the disk of `cache_folder`.
    """

    model: str
    revision: str
    commit: str
    files: tuple[PlannedFile, ...]
    cache_folder: Path
    free_disk_bytes: int

    @property
    def bytes_total(self) -> int:
        """Size of the whole checkpoint."""
        return sum(file.bytes for file in self.files)

    @property
    def bytes_to_fetch(self) -> int:
        """Size of the files that the Hub cache lacks. A file counts in full if its download was interrupted."""
        return sum(file.bytes for file in self.files if not file.cached)


def download_checkpoint(
    model: str,
    revision: str,
    on_plan: Callable[[DownloadPlan], None] | None,
    on_progress: Callable[[int, int], None] | None,
    with_weights: bool = True,
) -> Path:
    """Download a checkpoint into the Hub cache and return its folder; arguments as for `find_checkpoint`."""
    with explained_errors(model, revision):
        commit, names = hub_files(model, revision)
        _require_config(model, names)
        patterns = [each for each in CHECKPOINT_FILES if with_weights or each != WEIGHT_FILES]
        needed = [name for name in names if "/" not in name and any(fnmatch(name, each) for each in patterns)]
        return _fetch(_plan(model, revision, commit, needed), on_plan, on_progress).parent


def download_weights(
    model: str,
    revision: str,
    file: str,
    on_plan: Callable[[DownloadPlan], None] | None,
    on_progress: Callable[[int, int], None] | None,
) -> Path:
    """Download one file of a Hub repository into the Hub cache and return its path.

    Args:
        on_plan, on_progress: as for `find_checkpoint`.

    Raises:
        CheckpointError: as for `find_checkpoint`, or the repository has no such file.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    with explained_errors(model, revision):
        if constants.HF_HUB_OFFLINE:
            path = try_to_load_from_cache(model, file, revision=revision)
            if isinstance(path, str):
                return Path(path)
            raise CheckpointError(
                f"{file} of {model} is not in the cache, and HF_HUB_OFFLINE forbids downloading it",
                "unset HF_HUB_OFFLINE, or name a file on this machine",
            )
        commit, names = hub_files(model, revision)
        if file not in names:
            weights = [name for name in names if name.endswith((".gguf", ".safetensors"))]
            near = get_close_matches(file, weights, n=1) or weights[:1]
            hint = f"did you mean {model}/{near[0]}?" if near else f"see https://huggingface.co/{model}/tree/main"
            raise CheckpointError(f"{model} on the Hub has no file {file}", hint)
        return _fetch(_plan(model, revision, commit, [file]), on_plan, on_progress)


def _fetch(
    plan: DownloadPlan,
    on_plan: Callable[[DownloadPlan], None] | None,
    on_progress: Callable[[int, int], None] | None,
) -> Path:
    """Download the files of a plan and return the path of the last one."""
    if plan.bytes_to_fetch > plan.free_disk_bytes:
        raise CheckpointError(
            f"{plan.model} needs {format_bytes(plan.bytes_to_fetch)} more on the disk of {plan.cache_folder}, "
            f"where {format_bytes(plan.free_disk_bytes)} are free",
            "free some space, or set HF_HOME to a folder on a larger disk",
        )
    if on_plan is not None and plan.bytes_to_fetch:
        on_plan(plan)
    return _download(plan, on_progress)


def download_card(model: str, revision: str) -> Path:
    """Download a checkpoint's small descriptions into the Hub cache, without weights, and return their folder.

    Raises:
        CheckpointError: as for `find_checkpoint`.
    """
    from huggingface_hub import hf_hub_download

    with explained_errors(model, revision):
        # Fetch by commit. By the revision's name, the cache's `main` would point at this incomplete snapshot and hide a
        # complete older copy offline.
        commit, names = hub_files(model, revision)
        _require_config(model, names)
        if RECOMMENDED_FILE in names:
            hf_hub_download(model, RECOMMENDED_FILE, revision=commit)
        return Path(hf_hub_download(model, CONFIG_FILE, revision=commit)).parent


def download_file(model: str, choose: Callable[[Sequence[str]], str]) -> Path:
    """Download one file of a model into the Hub cache, unless it is there, and return its path.

    Args:
        model: `owner/name` or `owner/name@revision`.
        choose: names of the model's files → the name of the wanted one.

    Raises:
        CheckpointError: the model does not exist, or the Hub cannot be reached or refuses.
    """
    from huggingface_hub import constants, hf_hub_download, snapshot_download

    name, _, revision = model.partition("@")
    revision = revision or "main"
    with explained_errors(name, revision):
        if constants.HF_HUB_OFFLINE:
            folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
            return folder / choose([str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()])
        return Path(hf_hub_download(name, choose(hub_files(name, revision)[1]), revision=revision))


@cache
def hub_files(model: str, revision: str) -> tuple[str, tuple[str, ...]]:
    """Return the commit that a revision stands for and the names of its files.

    A process asks the Hub once, so a model's card and weights have the same commit.
    """
    from huggingface_hub import HfApi

    info = HfApi().model_info(model, revision=revision)
    return info.sha or revision, tuple(sibling.rfilename for sibling in info.siblings or ())


def _plan(model: str, revision: str, commit: str, needed: Sequence[str]) -> DownloadPlan:
    from huggingface_hub import hf_hub_download

    # Not `snapshot_download(dry_run=True)`: it lists the repository again, and its threads delay Ctrl-C.
    found = [hf_hub_download(model, name, revision=commit, dry_run=True) for name in needed]
    files = [PlannedFile(file.filename, file.file_size or 0, file.is_cached) for file in found]
    cache_folder = hub_cache_folder()
    existing = next(folder for folder in (cache_folder, *cache_folder.absolute().parents) if folder.exists())
    return DownloadPlan(
        model,
        revision,
        commit,
        tuple(sorted(files, key=lambda file: file.bytes)),
        cache_folder,
        shutil.disk_usage(existing).free,
    )


def _require_config(model: str, names: Sequence[str]) -> None:
    if CONFIG_FILE not in names:
        raise CheckpointError(
            f"{model} on the Hub is not a checkpoint: it has no {CONFIG_FILE}", f"try {OFFICIAL_MODEL}"
        )


def _download(plan: DownloadPlan, on_progress: Callable[[int, int], None] | None) -> Path:
    """Fetch missing files one after another in the calling thread.

    `snapshot_download` fetches in worker threads. After Ctrl-C it would wait until the files that they fetch, several
    gigabytes each, are complete. A single file of the official checkpoint arrives over parallel connections, too.
    """
    from huggingface_hub import hf_hub_download

    done, total = 0, plan.bytes_to_fetch

    def report(fetched: int) -> None:
        if on_progress is not None:
            on_progress(min(done + fetched, total), total)

    bar = _progress_bar(report)
    for file in plan.files:
        # Also call it for a file that is cached: another commit's copy still has to be linked into this one's folder.
        path = hf_hub_download(plan.model, file.name, revision=plan.commit, tqdm_class=bar)
        if not file.cached:
            done += file.bytes
            report(0)
    known = cached_folder(plan.model, plan.revision)
    if known is None or known.name != plan.commit:
        # The cache notes a revision's commit, for later offline use, only in a call by the revision's name. This call
        # is the last one, so that the name never points at an incomplete commit.
        names = [file.name for file in plan.files]
        hf_hub_download(plan.model, CONFIG_FILE if CONFIG_FILE in names else names[-1], revision=plan.revision)
    return Path(path)


def _progress_bar(report: Callable[[int], None]) -> type[Any]:
    """Return a progress bar for huggingface_hub that draws nothing and reports the bytes of a file on the disk."""
    from huggingface_hub.utils.tqdm import tqdm

    class ProgressBar(tqdm):
        monitor_interval = 0  # tqdm would start a thread that redraws slow bars

        def __init__(self, *args: object, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            self.n += int(n or 0)
            report(self.n)

        def update_transfer(self, n: float | None = 1) -> None:
            """Ignore bytes from the network: they count when they are on the disk."""

        set_transfer_postfix_str = tqdm.set_postfix_str

    return ProgressBar
