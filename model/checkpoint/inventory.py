"""The models in the Hub cache: their sizes on disk, and their removal. No network is used."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.checkpoint.hub_cache import REPOSITORY_PREFIX, cached_folder, hub_cache_folder, missing_weights
from model.errors import CheckpointError
from model.network.configuration import CONFIG_FILE

PARTIAL = ".incomplete"
"""End of the name of a file whose download was interrupted."""


@dataclass(frozen=True)
class CachedModel:
    """A repository of models in the Hub cache.

    Attributes:
        hub_id: `owner/name`.
        folder: the repository's folder in the cache, which holds all its revisions.
        snapshot: the folder of the files of one revision, if possible of `main`; None if there is none.
        nbytes: size on the disk, with parts of interrupted downloads.
        is_checkpoint: whether the snapshot has a configuration.
        missing: a weight file that the checkpoint lacks, or None.
    """

    hub_id: str
    folder: Path
    snapshot: Path | None
    nbytes: int
    is_checkpoint: bool
    missing: str | None

    @property
    def is_complete(self) -> bool:
        """Whether no file of weights is missing and no download was interrupted."""
        return self.missing is None and not any(self.folder.glob(f"blobs/*{PARTIAL}"))


def cached_models() -> list[CachedModel]:
    """Return all repositories of models in the Hub cache, sorted by Hub id; none without a cache."""
    return [_describe(folder) for folder in sorted(_repositories())]


def cached_model(hub_id: str) -> CachedModel | None:
    """Return one repository of the Hub cache, or None."""
    return next((_describe(folder) for folder in _repositories() if _hub_id(folder) == hub_id), None)


def remove_cached_model(model: CachedModel) -> None:
    """Remove a repository from the Hub cache, with all its revisions.

    Raises:
        CheckpointError: the folder cannot be removed.
    """
    # Renamed first: if the removal fails halfway, the cache has no damaged model.
    hidden = model.folder.with_name(f".removed-{model.folder.name}")
    try:
        if hidden.exists():
            shutil.rmtree(hidden)
        model.folder.rename(hidden)
        shutil.rmtree(hidden)
    except OSError as error:
        raise CheckpointError(
            f"{model.hub_id} cannot be removed: {error.strerror or error}", f"check the permissions of {model.folder}"
        ) from error
    shutil.rmtree(model.folder.parent / ".locks" / model.folder.name, ignore_errors=True)


def _repositories() -> Iterator[Path]:
    try:
        folders = list(hub_cache_folder().iterdir())
    except OSError:
        return
    yield from (each for each in folders if each.name.startswith(REPOSITORY_PREFIX) and each.is_dir())


def _hub_id(folder: Path) -> str:
    return folder.name.removeprefix(REPOSITORY_PREFIX).replace("--", "/", 1)


def _describe(folder: Path) -> CachedModel:
    hub_id = _hub_id(folder)
    snapshot = cached_folder(hub_id, "main") or _newest_snapshot(folder)
    is_checkpoint = snapshot is not None and (snapshot / CONFIG_FILE).is_file()
    missing: str | None = None
    if snapshot is not None and is_checkpoint:
        try:
            missing = missing_weights(snapshot)
        except CheckpointError:
            missing = "a readable index of the weights"
    return CachedModel(hub_id, folder, snapshot, _size(folder), is_checkpoint, missing)


def _newest_snapshot(folder: Path) -> Path | None:
    try:
        snapshots = [each for each in (folder / "snapshots").iterdir() if each.is_dir()]
    except OSError:
        return None
    return max(snapshots, key=lambda each: each.stat().st_mtime, default=None)


def _size(folder: Path) -> int:
    """Return the size of the files below a folder. Links are not followed, so each file counts once."""
    total = 0
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except OSError:
            continue
        total += status.st_size if not path.is_symlink() and not path.is_dir() else 0
    return total
