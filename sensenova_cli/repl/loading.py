"""The model that loads in the background, while the prompt is there already."""

import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from config.recommended import Recommended
from config.schema import Settings
from model.events import LoadProgress
from model.weights.hub import DownloadPlan, find_checkpoint
from sensenova_cli import turn
from sensenova_cli.render.progress import gigabytes
from sensenova_cli.render.stream import Renderer

if TYPE_CHECKING:
    from model.engine import Engine

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Progress:
    """How far it is: `title` names what happens; `total` 0 is not known yet."""

    title: str
    done: int = 0
    total: int = 0


class Loading:
    """One model, loaded by a thread of its own from the moment this is made.

    Attributes:
        model: its name.
        settings: it runs with; whoever changes its LoRAs says so here.
        progress: how far it is.
    """

    _thread: threading.Thread

    def __init__(self, model: str, settings: Settings, after: "Loading | None" = None) -> None:
        """Begin, once what is loaded before it has ended: importing and memory are not for two at a time."""
        self.model = model
        self.settings = settings
        self.progress = Progress(f"loading {model}")
        self._before = after._thread if after is not None else None
        self._engine: Engine | None = None
        self._recommended: Recommended | None = None
        self._error: BaseException | None = None
        self._notices: list[str] = []
        self._cancelled = False
        self._told = False
        self._done = threading.Event()
        # A daemon: whoever leaves while 35 GB are read does not wait for them.
        self._thread = threading.Thread(target=self._load, name="loading", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    @property
    def has_failed(self) -> bool:
        """Whether it cannot be loaded, or was and is lost since, which was said."""
        return self._told or (self._engine is not None and self._engine.is_lost)

    @property
    def recommended(self) -> Recommended | None:
        """What the checkpoint and its LoRAs say about settings, as soon as they are found."""
        return self._recommended if self._engine is None else self._engine.recommended

    def engine(self, renderer: Renderer) -> "Engine":
        """The model, waited for with its progress shown.

        Raises:
            SenseNovaError: it cannot be loaded.
            KeyboardInterrupt: the user did not want to wait; it goes on loading.
        """
        while not self._done.is_set():
            title = self.progress.title
            with renderer.bytes_progress(title) as view:
                while not self._done.wait(POLL_SECONDS) and self.progress.title == title:
                    view.update(self.progress.done, self.progress.total)
        for notice in self._notices:
            renderer.notice(notice)
        self._notices.clear()
        if self._error is not None:
            self._told = True
            raise self._error
        assert self._engine is not None
        return self._engine

    def give_up(self) -> None:
        """Another model is wanted: end at the next report of progress, and let the memory go."""
        self._cancelled = True
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _load(self) -> None:
        if self._before is not None:
            self._before.join()
            self._before = None
        began = time.perf_counter()
        try:
            folder = self._find()
            self._recommended = turn.recommendations(folder, self.settings)
            self.progress = Progress(f"loading {self.model}")
            engine = turn.load_engine(folder, self.settings, self._on_load)
            self._notices.append(
                f"{self.model} loaded in {time.perf_counter() - began:.1f} s: {turn.described(engine)}"
            )
            if not self._cancelled:
                self._engine = engine
        except BaseException as error:  # raised again where it is waited for
            traceback.clear_frames(error.__traceback__)  # they hold the weights that were read
            self._error = error
        finally:
            self._done.set()

    def _find(self) -> Path:
        def on_plan(plan: DownloadPlan) -> None:
            self._notices.append(f"downloading {gigabytes(plan.bytes_to_fetch)} into {plan.cache_folder}")

        def on_progress(done: int, total: int) -> None:
            self._require_wanted()
            self.progress = Progress(f"downloading {self.model}", done, total)

        return find_checkpoint(self.model, on_plan=on_plan, on_progress=on_progress)

    def _on_load(self, now: LoadProgress) -> None:
        self._require_wanted()
        self.progress = Progress(f"loading {self.model}", now.done_bytes, now.total_bytes)

    def _require_wanted(self) -> None:
        if self._cancelled:
            raise KeyboardInterrupt
