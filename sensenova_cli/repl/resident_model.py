"""The model of a session. A thread loads it while the user can already type, and it stays loaded."""

import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import model
from config.recommended import Recommended
from config.settings import LoadSettings
from model import Card, CheckpointError, DownloadPlan, Engine, LoadProgress, Request, parse_loras, read_card
from sensenova_cli.render.turn_view import TurnView
from sensenova_cli.system.interpreter import freeze_loaded
from sensenova_cli.turns.downloads import can_ask, needs_consent, refusal, require_consent
from sensenova_cli.turns.model_source import download_notice, loaded_settings, model_name

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Progress:
    """Progress of a download or of loading.

    Attributes:
        title: the activity and the model, such as `loading demo`.
        total: 0 if it is not known yet.
    """

    title: str
    done: int = 0
    total: int = 0


class ResidentModel:
    """A `ModelSource` with one model. Creating it starts a thread that loads the model.

    Attributes:
        settings: the settings that it is loaded with; `use_loras` changes them.
        progress: progress of loading.
    """

    _thread: threading.Thread

    def __init__(self, settings: LoadSettings, size: str, after: "ResidentModel | None" = None) -> None:
        """Start loading.

        Args:
            size: size of the pictures that must fit into memory.
            after: the previous model. Loading waits for the end of its thread, because two models would not fit.
        """
        self.settings = settings
        self._verb = "waiting for" if settings.is_remote else "loading"
        self.progress = Progress(f"{self._verb} {model_name(settings)}")
        self._size = size
        self._previous_thread = after._thread if after is not None else None
        self._engine: Engine | None = None
        self._card: Card | None = None
        self._error: BaseException | None = None
        self._notices: list[str] = []
        self._ready_line = ""  # says that it is loaded, until `open` has shown it
        self._cancelled = False
        self._error_shown = False
        self._question: DownloadPlan | None = None
        self._refused: CheckpointError | None = None
        self._answered = threading.Event()
        self._done = threading.Event()
        # A daemon thread: the program may end while 35 GB are being read.
        self._thread = threading.Thread(target=self._load, name="loading", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """The name of the model; for a server its address, until the server has said which model it has."""
        if self.settings.is_remote and self._card is not None:
            return self._card.model
        return model_name(self.settings)

    @property
    def loaded(self) -> LoadSettings:
        """The load settings for records, as `ModelSource.loaded`."""
        engine = self._engine
        card = engine.card if engine is not None else self._card
        if card is not None and card.loaded is not None:
            return card.loaded
        return self.settings if engine is None else loaded_settings(self.settings, engine)

    @property
    def is_done(self) -> bool:
        """Whether loading has ended, with success or not."""
        return self._done.is_set()

    @property
    def has_failed(self) -> bool:
        """Whether it must be loaded again: its error was shown, it was discarded, or one of its processes was lost."""
        return self._error_shown or self._cancelled or (self._engine is not None and self._engine.is_lost)

    @property
    def recommended(self) -> Recommended | None:
        """Settings that the model and its LoRAs recommend; None until the card is read."""
        card = self._engine.card if self._engine is not None else self._card
        return card.recommended if card is not None else None

    def card(self, view: TurnView) -> Card:
        """Wait for the card, and return it as `ModelSource.card`."""
        if self.settings.is_remote:
            self._wait(view)
        while self._card is None and not self._done.wait(POLL_SECONDS):
            pass  # a card is a few kilobytes; `open` shows the progress of the weights
        if self._engine is not None:
            return self._engine.card
        if self._card is None:
            self._raise_error()
        assert self._card is not None
        return self._card

    def open(self, requests: Sequence[Request], view: TurnView) -> Engine:
        """Wait for the engine, and return it as `ModelSource.open`.

        Raises:
            KeyboardInterrupt: the user pressed Ctrl-C; loading continues.
        """
        self._wait(view)
        for notice in self._notices:
            view.notice(notice)
        self._notices.clear()
        if self._ready_line:
            view.muted(self._ready_line)
            self._ready_line = ""
        self._raise_error()
        assert self._engine is not None
        return self._engine

    def use_loras(self, text: str | None, view: TurnView) -> None:
        """Replace the merged LoRAs; waits until the model is loaded.

        Args:
            text: a value of the setting `lora`.

        Raises:
            SenseNovaError: a LoRA cannot be read or does not fit. The merged LoRAs are unchanged.
            KeyboardInterrupt: the user pressed Ctrl-C while the model was loading.
        """
        self.open((), view).use_loras(parse_loras(text))
        self.settings = self.settings.model_copy(update={"lora": text})

    @property
    def is_loaded(self) -> bool:
        """Whether the model can run requests now."""
        return self._engine is not None and not self._engine.is_lost

    def use_freed_memory(self) -> None:
        """Use the memory of a model that was unloaded, as `Engine.use_freed_memory`."""
        if self._engine is not None:
            self._engine.use_freed_memory()

    def discard(self) -> None:
        """Close the engine and free its memory; loading that still runs ends at its next report of progress."""
        self._cancelled = True
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _wait(self, view: TurnView) -> None:
        while not self._done.is_set():
            if self._question is not None and not self._answered.is_set():
                self._ask(self._question)
            title = self.progress.title
            with view.bytes_progress(title) as bar:
                while not self._done.wait(POLL_SECONDS) and self.progress.title == title:
                    bar.update(self.progress.done, self.progress.total)

    def _ask(self, plan: DownloadPlan) -> None:
        """Ask for the consent to a download that the loading thread waits for."""
        try:
            require_consent(plan, self.settings)
        except CheckpointError as error:
            self._refused = error
        self._answered.set()

    def _raise_error(self) -> None:
        if self._error is not None:
            self._error_shown = True
            raise self._error

    def _load(self) -> None:
        if self._previous_thread is not None:
            self._previous_thread.join()
            self._previous_thread = None
        began = time.perf_counter()
        try:
            if not self.settings.is_remote:
                self._card = read_card(self.settings)
            engine = model.open_engine(
                self.settings,
                size=self._size,
                on_plan=self._on_plan,
                on_download=lambda done, total: self._advance("downloading", done, total),
                on_progress=self._on_load,
            )
            freeze_loaded()
            self._card = engine.card
            how = "is ready" if self.settings.is_remote else f"loaded in {time.perf_counter() - began:.1f} s"
            self._ready_line = f"{self.name} {how}: {engine.description}"
            if not self._cancelled:
                self._engine = engine
        except BaseException as error:  # `open` and `card` raise it in the thread that waits
            traceback.clear_frames(error.__traceback__)  # the frames refer to the weights that were read
            self._error = error
        finally:
            self._done.set()

    def _on_plan(self, plan: DownloadPlan) -> None:
        self._notices.append(download_notice(plan))
        if needs_consent(plan, self.settings):
            if not can_ask():
                raise refusal(plan)
            self._question = plan  # the prompt of the session is in the way now; `_wait` asks
            self.progress = Progress(f"your consent is needed to download {self.name}")
            while not self._answered.wait(POLL_SECONDS):
                if self._cancelled:
                    raise KeyboardInterrupt
            if self._refused is not None:
                raise self._refused
        self._advance("downloading", 0, 0)

    def _on_load(self, now: LoadProgress) -> None:
        self._advance(self._verb, now.done_bytes, now.total_bytes)

    def _advance(self, verb: str, done: int, total: int) -> None:
        if self._cancelled:
            raise KeyboardInterrupt
        if verb == "downloading" and total and done >= total:
            verb, done, total = "loading", 0, 0
        self.progress = Progress(f"{verb} {self.name}", done, total)
