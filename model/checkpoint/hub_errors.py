"""Errors of the Hugging Face Hub in words for the user."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from model.checkpoint.hub_cache import cached_checkpoint, display_name
from model.errors import CheckpointError

OFFICIAL_MODEL = "SenseNova/SenseNova-U1-8B-MoT"


@contextmanager
def explained_errors(model: str, revision: str) -> Iterator[None]:
    """Turn errors of huggingface_hub, and of the HTTP library under it, into CheckpointErrors for the user."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise _explain(error, model, revision) from error


def _explain(error: Exception, model: str, revision: str) -> CheckpointError:
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        # It only says that the cache lacks the file, too. Its cause says why the Hub did not send the file.
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
            "free some space, or set HF_HOME to a folder on a larger disk; complete files are kept",
        )
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CheckpointError(
            f"{error.filename or 'the cache folder'} cannot be written: {error.strerror}",
            "set HF_HOME to a folder that you can write to",
        )
    reason = f"HTTP {status}" if status is not None else (str(error).splitlines() or [type(error).__name__])[0]
    return CheckpointError(
        f"{display_name(model, revision)} could not be fetched from the Hub: {reason}",
        _hint_when_cached(model, revision),
    )


def _hint_when_cached(model: str, revision: str) -> str:
    try:
        cached_checkpoint(model, revision)
    except CheckpointError:
        return "check the network and try again: complete files are kept"
    return "the Hub cache has a copy: set HF_HUB_OFFLINE=1 to use it, or try again later"
