"""Where a turn's engine comes from."""

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Protocol

import model
from config.mentions import mention
from config.settings import LoadSettings
from model import (
    DEMO_MODEL,
    OFFICIAL_MODEL,
    Card,
    DownloadPlan,
    Engine,
    Request,
    find_checkpoint,
    read_card,
)
from sensenova_cli.render.progress import ProgressView, gigabytes
from sensenova_cli.render.turn_view import TurnView

DEMO_NOTICE = (
    "no model is configured: this is the built-in demo, which knows 8 shapes and 64 everyday things; "
    f"the real one is {mention('model', OFFICIAL_MODEL)} (35 GB)"
)


class ModelSource(Protocol):
    """A model that can be opened, or is open already."""

    def card(self, view: TurnView) -> Card:
        """What it says about itself, without its weights.

        Raises:
            SenseNovaError: as for `model.read_card`.
        """

    def open(self, requests: Sequence[Request], view: TurnView) -> Engine:
        """The engine, with room for these requests; how loading advances is shown.

        Raises:
            SenseNovaError: as for `model.open_engine`.
        """


class ModelOnDemand:
    """A model that is loaded when a command needs it, for that command's requests."""

    def __init__(self, settings: LoadSettings) -> None:
        self.settings = settings

    def card(self, view: TurnView) -> Card:
        """As `ModelSource.card`."""
        return read_card(self.settings)

    def open(self, requests: Sequence[Request], view: TurnView) -> Engine:
        """As `ModelSource.open`."""
        if self.settings.model is None:
            view.notice(DEMO_NOTICE)
        start = time.perf_counter()
        with closing(_OpeningView(view, model_name(self.settings))) as shown:
            shown.show("loading")
            engine = model.open_engine(
                self.settings,
                requests=requests,
                on_plan=shown.on_plan,
                on_download=lambda done, total: shown.show("downloading", done, total),
                on_progress=lambda now: shown.show("loading", now.done_bytes, now.total_bytes),
            )
        view.muted(f"loaded in {time.perf_counter() - start:.1f} s: {engine.description}")
        return engine


def find_weights(settings: LoadSettings, view: TurnView) -> Path:
    """The folder of a model's checkpoint, downloaded where it must be, for a command that needs no engine.

    Raises:
        DeviceError: the device is not there. This is checked before a download.
        SenseNovaError: as for `model.find_checkpoint`.
    """
    if settings.model is None:
        view.notice(DEMO_NOTICE)
    if settings.device not in ("auto", "cpu"):  # for these two, PyTorch need not be imported
        model.require_device(settings.device)
    with closing(_OpeningView(view, model_name(settings))) as shown:
        return find_checkpoint(
            model_name(settings),
            on_plan=shown.on_plan,
            on_progress=lambda done, total: shown.show("downloading", done, total),
        )


def model_name(settings: LoadSettings) -> str:
    """The model's name, also where it is the built-in one."""
    return settings.model or DEMO_MODEL


def download_notice(plan: DownloadPlan) -> str:
    """What a download will fetch, and into which folder."""
    return (
        f"downloading {plan.model}: {gigabytes(plan.bytes_to_fetch)} of {gigabytes(plan.bytes_total)} "
        f"into {plan.cache_folder}, where {gigabytes(plan.free_disk_bytes)} are free"
    )


class _OpeningView:
    """One progress bar at a time: of a download, then of loading."""

    def __init__(self, view: TurnView, name: str) -> None:
        self._view = view
        self._name = name
        self._verb = ""
        self._shown = ExitStack()
        self._bar: ProgressView | None = None

    def on_plan(self, plan: DownloadPlan) -> None:
        """A download begins."""
        self.close()
        self._view.notice(download_notice(plan))
        self.show("downloading")

    def show(self, verb: str, done: int = 0, total: int = 0) -> None:
        """Advance the bar of this verb; a new verb begins a new bar."""
        if verb != self._verb:
            self.close()
            self._verb = verb
            self._bar = self._shown.enter_context(self._view.bytes_progress(f"{verb} {self._name}"))
        if total and self._bar is not None:
            self._bar.update(done, total)

    def close(self) -> None:
        """Take the bar away."""
        self._verb = ""
        self._bar = None
        self._shown.close()
