"""Downloads of models: whether one is needed, and consent to it. On a terminal the user is asked, elsewhere the setting
`yes` is needed."""

import sys
from pathlib import Path

from config.errors import SenseNovaError
from config.mentions import mention
from config.settings import LoadSettings
from config.units import format_bytes
from model import CheckpointError, DownloadPlan, find_checkpoint, find_weights_file, is_hub_id, local_checkpoint
from sensenova_cli.system.terminal_echo import visible_keys
from sensenova_cli.system.unicode import printable

ASK_FROM_BYTES = 10**9
"""Smaller downloads start without a question."""


class _PlannedError(Exception):
    """Ends a download when its plan is known."""

    def __init__(self, plan: DownloadPlan) -> None:
        super().__init__()
        self.plan = plan


def needs_consent(plan: DownloadPlan, settings: LoadSettings) -> bool:
    """Return whether the user has to agree to a download."""
    return not settings.yes and plan.bytes_to_fetch >= ASK_FROM_BYTES


def can_ask() -> bool:
    """Return whether there is a terminal to ask on."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def require_consent(plan: DownloadPlan, settings: LoadSettings) -> None:
    """Ask whether a large download may start.

    Raises:
        CheckpointError: the user does not agree, or cannot be asked and has not agreed in advance.
    """
    if not needs_consent(plan, settings):
        return
    if not can_ask():
        raise refusal(plan)
    print(printable(f"Download {plan.model} ({format_bytes(plan.bytes_to_fetch)})? [y/N] "), end="", file=sys.stderr)
    sys.stderr.flush()
    with visible_keys():
        reply = sys.stdin.readline()
    if reply.strip().lower() not in ("y", "yes"):
        raise CheckpointError(
            f"{plan.model} was not downloaded", f"leave the model out to use the demo, or name one: {mention('model')}"
        )


def refusal(plan: DownloadPlan) -> CheckpointError:
    """Return the error for a large download that nobody has agreed to."""
    size = format_bytes(plan.bytes_to_fetch)
    return CheckpointError(
        f"{plan.model} is not on this machine, and a download of {size} needs your consent",
        "to allow it, start the program with --yes, or set SENSENOVA_YES=true",
    )


def ask_before_session(settings: LoadSettings) -> LoadSettings:
    """Ask for the consent to a large download before a session starts, whose prompt would be in the way later.

    Returns:
        The settings, with `yes` if the user has agreed. Problems with the Hub are left to the loading of the model.

    Raises:
        CheckpointError: the user does not agree.
    """
    model = settings.model
    if settings.is_remote or settings.yes or model is None or not can_ask():
        return settings
    weights = settings.weights_file
    if weights is None and (not is_hub_id(model) or find_published(model) is not None):
        return settings

    def stop(plan: DownloadPlan) -> None:
        raise _PlannedError(plan)

    try:
        if weights is not None:
            find_weights_file(weights, on_plan=stop)
        else:
            find_checkpoint(model, on_plan=stop)
    except _PlannedError as planned:
        require_consent(planned.plan, settings)
        return settings.model_copy(update={"yes": True})
    except SenseNovaError:
        pass
    return settings


def find_published(model: str) -> Path | None:
    """Return the folder of a published model if its weights are on this machine, else None."""
    folder = local_checkpoint(model)
    return folder if folder is not None and any(folder.glob("*.safetensors")) else None
