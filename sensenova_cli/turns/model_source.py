"""Sources of a turn's engine. `ModelOnDemand` loads a model and shows the progress."""

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Protocol

import model
from config.mentions import mention
from config.settings import LoadSettings
from config.units import format_bytes
from model import (
    CONNECT,
    DEMO_MODEL,
    Card,
    CheckpointError,
    DownloadPlan,
    Engine,
    LoadProgress,
    Request,
    find_checkpoint,
    process_timings,
    read_card,
)
from sensenova_cli.errors import UsageError
from sensenova_cli.render.progress import ProgressView
from sensenova_cli.render.turn_view import TurnView
from sensenova_cli.turns.demo_notice import demo_notice
from sensenova_cli.turns.downloads import require_consent


class ModelSource(Protocol):
    """A model that can be opened, or is open already.

    Attributes:
        loaded: the load settings that made the pictures, for their records. Those of a model on a server are known
            when its card has been read.
    """

    @property
    def loaded(self) -> LoadSettings: ...

    def card(self, view: TurnView) -> Card:
        """Read the model's card, without its weights.

        Raises:
            SenseNovaError: as for `model.read_card`.
        """

    def open(self, requests: Sequence[Request], view: TurnView) -> Engine:
        """Return an engine with enough memory for these requests, and show the progress of loading.

        Raises:
            SenseNovaError: as for `model.open_engine`.
        """


class ModelOnDemand:
    """A model that `open` loads, for the requests of one command.

    Args:
        size: if given, the model is loaded for any request with pictures of up to this size, instead of for the
            requests that `open` gets.

    Attributes:
        load_seconds: seconds that loading has taken; 0 before.
        placement: number format and device of the loaded model, as the engine describes them.
    """

    def __init__(self, settings: LoadSettings, size: str | None = None) -> None:
        self.settings = settings
        self._loaded = settings
        self._size = size
        self._remote: Engine | None = None
        self.load_seconds = 0.0
        self.placement = ""

    @property
    def loaded(self) -> LoadSettings:
        """See `ModelSource`."""
        return self._loaded

    def card(self, view: TurnView) -> Card:
        """Read the card, as `ModelSource.card`. A server answers with it when its model is loaded."""
        if not self.settings.is_remote:
            return read_card(self.settings)
        engine = self._open_remote(view)
        self._loaded = engine.card.loaded or self.settings
        return engine.card

    def open(self, requests: Sequence[Request], view: TurnView) -> Engine:
        """Load the model, as `ModelSource.open`."""
        if self.settings.is_remote:
            engine = self._open_remote(view)
            view.muted(f"using {engine.card.model}, {engine.description}")
            self.placement = engine.description
            return engine
        show_demo_notice(self.settings, view)
        start = time.perf_counter()
        with closing(_OpeningProgress(view, self.settings)) as progress:
            progress.show("loading")

            def on_progress(now: LoadProgress) -> None:
                view.prepare(requests)
                progress.show("loading", now.done_bytes, now.total_bytes)

            engine = model.open_engine(
                self.settings,
                size=self._size or "auto",
                requests=requests if self._size is None else None,
                on_plan=progress.on_plan,
                on_download=lambda done, total: progress.show("downloading", done, total),
                on_progress=on_progress,
            )
        self._loaded = loaded_settings(self.settings, engine)
        self.load_seconds, self.placement = time.perf_counter() - start, engine.description
        view.muted(f"{short_name(self.settings)} loaded in {self.load_seconds:.1f} s: {self.placement}")
        return engine

    def _open_remote(self, view: TurnView) -> Engine:
        """Return the engine of the server, and wait until its model is loaded."""
        if self._remote is None:
            opening = closing(_OpeningProgress(view, self.settings))
            with process_timings.phase(CONNECT), opening as progress:
                self._remote = model.open_engine(
                    self.settings,
                    on_progress=lambda now: progress.show("waiting for", now.done_bytes, now.total_bytes),
                )
        return self._remote


def find_weights(settings: LoadSettings, view: TurnView) -> Path:
    """Return the folder of a model's checkpoint for a command that needs no engine; download it if necessary.

    Raises:
        DeviceError: the device does not exist. This is checked before a download.
        SenseNovaError: as for `model.find_checkpoint`.
    """
    require_local(settings)
    show_demo_notice(settings, view)
    if settings.device not in ("auto", "cpu"):  # these two always exist; the check would import PyTorch
        model.require_device(settings.device)
    with closing(_OpeningProgress(view, settings)) as progress:
        return find_checkpoint(
            model_name(settings),
            on_plan=progress.on_plan,
            on_progress=lambda done, total: progress.show("downloading", done, total),
            with_weights=settings.weights_file is None,
        )


def show_demo_notice(settings: LoadSettings, view: TurnView) -> None:
    """Say that the built-in demo is used because no model is configured, unless this was said today."""
    if not view.is_quiet and (notice := demo_notice(settings)):
        view.notice(notice)


def require_local(settings: LoadSettings) -> None:
    """Raise UsageError if the settings name a server, for a command that works with the model's files."""
    if settings.is_remote:
        raise UsageError(
            f"this command needs the model's files, which the server {settings.server} does not provide",
            f"run it on that machine, or use the files here: {mention('server', 'off')}",
        )


def require_usable(settings: LoadSettings) -> None:
    """Check a model's name, and the files of a folder, without loading the weights.

    Raises:
        SenseNovaError: as for `model.read_card`, or a file is missing or damaged.
    """
    read_card(settings)
    name = model_name(settings)
    if settings.is_remote or not Path(name).expanduser().is_dir():  # a model of the Hub is completed when it is opened
        return
    from model import check_files  # imports PyTorch, which nothing else here needs

    for finding in check_files(Path(name).expanduser()):
        is_elsewhere = finding.name == "tensors" and settings.weights_file is not None
        if finding.status == "failed" and not is_elsewhere:
            raise CheckpointError(f"{name}: {finding.detail}", f"to check all files: sensenova verify {name}")
        if finding.name == "tokenizer":  # the following checks read all weights
            break


def loaded_settings(settings: LoadSettings, engine: Engine) -> LoadSettings:
    """Return load settings for records, with the number format that the engine uses instead of `auto`."""
    return settings.model_copy(update={"dtype": engine.dtype}) if engine.dtype else settings


def model_name(settings: LoadSettings) -> str:
    """Return the model's name, which is `demo` if no model is configured; for a server the server's address."""
    if settings.model is None and settings.is_remote:
        return "the server on this machine" if settings.server == "local" else f"the server {settings.server}"
    return settings.model or DEMO_MODEL


def short_name(settings: LoadSettings) -> str:
    """Return the last part of the model's name: of a Hub id or a folder."""
    return model_name(settings).replace("\\", "/").rstrip("/").rpartition("/")[2]


def download_notice(plan: DownloadPlan) -> str:
    """Return a sentence about a download: its size, its folder and the free space there."""
    return (
        f"downloading {plan.model}: {format_bytes(plan.bytes_to_fetch)} of {format_bytes(plan.bytes_total)} "
        f"into {plan.cache_folder}, where {format_bytes(plan.free_disk_bytes)} are free"
    )


class _OpeningProgress:
    """The progress bar of a download, then of loading."""

    def __init__(self, view: TurnView, settings: LoadSettings) -> None:
        self._view = view
        self._settings = settings
        self._name = model_name(settings)
        self._verb = ""
        self._shown = ExitStack()
        self._bar: ProgressView | None = None

    def on_plan(self, plan: DownloadPlan) -> None:
        """Announce a download, and ask for consent if it is large; errors as for `require_consent`."""
        self.close()
        self._view.notice(download_notice(plan))
        require_consent(plan, self._settings)
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
        """Remove the bar."""
        self._verb = ""
        self._bar = None
        self._shown.close()
