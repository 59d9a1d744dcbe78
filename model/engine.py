"""The engine: a model that turns a request into a stream of events. Every frontend uses it.

Importing this module does not import PyTorch; loading a model into this process does.
"""

import atexit
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.settings import ImageSettings, LoadSettings, TextSettings
from config.validation import Notation, check_values
from model.checkpoint.card import Card
from model.checkpoint.named_lora import NamedLora
from model.cuda_context import creating_cuda_context
from model.events import Event, LoadProgress, Notice
from model.parallel.commands import ClearCache, Run, UseLoras
from model.requests import AnswerRequest, GenerateRequest, Request
from model.timings import IMPORTS, process_timings
from model.trace import Trace

if TYPE_CHECKING:
    from model.loading import LocalModel
    from model.memory.estimate import Workload


class Engine(ABC):
    """A model that turns requests into streams of events, in this process or elsewhere.

    >>> engine = Engine.load("path/to/checkpoint")
    >>> for event in engine.run(GenerateRequest("A cute cat")):
    ...     if isinstance(event, Picture):
    ...         event.image.save("cat.png")

    Attributes:
        dtype: the number format that the model runs in; empty if a server does not say it.
    """

    dtype: str = ""

    @abstractmethod
    def run(self, request: Request) -> Iterator[Event]:
        """Run a request and yield its events as they happen. The last event is `Statistics`.

        Closing the iterator between two events cancels the request; the engine stays usable.

        Raises:
            RequestError: this model cannot run the request.
            CheckpointError: an earlier change of LoRAs was interrupted, so the weights are incomplete.
            PictureError: an input picture cannot be used.
            DeviceMemoryError: the request does not fit in the device's memory.
            NumericsError: the result contains NaN or infinity.
            RankError: a process that shares the model was lost: see `is_lost`.
        """

    @property
    @abstractmethod
    def card(self) -> Card:
        """The model's name and recommended settings, with those of the merged LoRAs."""

    @property
    @abstractmethod
    def description(self) -> str:
        """One line: number format, device, and location of the weights."""

    @property
    @abstractmethod
    def loras(self) -> tuple[NamedLora, ...]:
        """The merged LoRAs."""

    @abstractmethod
    def use_loras(self, loras: Sequence[NamedLora]) -> None:
        """Replace the merged LoRAs. Without LoRAs the weights are exactly those of the checkpoint.

        If the change is interrupted, no request runs until another call succeeds.

        Raises:
            CheckpointError: a LoRA cannot be read or does not fit the model, and nothing has changed; or the
                checkpoint's files cannot be read any more.
            DeviceMemoryError: the reloaded matrices do not fit beside the other weights.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the engine's memory. The engine cannot be used afterwards."""

    def use_freed_memory(self) -> None:  # noqa: B027  # most engines have no memory here
        """Measure the free memory again. Call it after another model was unloaded, so that large requests can use its
        memory."""

    def warm_up(self, size: str = "auto") -> None:
        """Do the work that only the first requests need, such as compiling kernels, so that they do not wait for it.

        Args:
            size: size of the pictures that will be made.

        Raises:
            SenseNovaError: as for `run`.
        """
        return

    @property
    def is_lost(self) -> bool:
        """Whether a process that the engine needs was lost, so that the engine has to be opened again."""
        return False

    @property
    def cancel_notice(self) -> str:
        """A note for the user who has cancelled a request; empty if its work has ended."""
        return ""

    @staticmethod
    def load(
        checkpoint: str | Path,
        *,
        size: str = "auto",
        requests: Sequence[Request] | None = None,
        on_progress: Callable[[LoadProgress], None] | None = None,
        **settings: Any,
    ) -> "LocalEngine":
        """Load a checkpoint into this process.

        >>> engine = Engine.load("demo", offload="layers", gpu_memory="8GiB")

        Args:
            checkpoint: a folder, a Hugging Face Hub id (downloaded if it is not in the Hub cache), or `demo`.
            size, requests, on_progress: as for `open_engine`.
            settings: load settings by name, as `config.settings.LoadSettings` declares them.

        Raises:
            SettingsError: a setting is unknown, of a wrong type or out of bounds.
            SenseNovaError: as for `open_engine`.
        """
        notation = Notation(lambda name: "", key=str, equals="=", literal=repr, text=False)
        checked = check_values({"model": str(checkpoint), **settings}, notation, LoadSettings.model_fields)
        load_settings = LoadSettings.model_validate(checked)
        load_model = import_loading(load_settings)
        return LocalEngine(load_model(load_settings, size=size, requests=requests, on_progress=on_progress))


class LocalEngine(Engine):
    """A checkpoint loaded into this process.

    The engine caches the prefixes of the last request. The next request reuses matching tokens and frees the rest
    before prefill, so a second question about a picture does not process the picture again. The cache never changes a
    picture's bytes; the prefill of an answer may run in other batches and round differently.

    Several GPUs, or several processes on a CPU, can share the model. This process is then rank 0, and starts and ends
    the other ranks (`model.parallel.processes`).

    Attributes:
        checkpoint: the checkpoint's folder.
        device: the device that the model runs on.
    """

    def __init__(self, loaded: "LocalModel") -> None:
        """Use `Engine.load` or `open_engine`."""
        self._model = loaded.name
        self._runner = loaded.runner
        self._ranks = loaded.ranks
        self._layout_summary = loaded.chosen_layout.describe() if loaded.chosen_layout else ""
        groups = loaded.groups
        self._ranks_per_prefix = groups.und.shard.count if groups else 1  # consecutive ranks that prefill together
        self._caches_differ = False
        self.checkpoint = loaded.runner.model.folder
        size = groups.layout.size if groups else 1
        self.device = str(loaded.runner.model.device) + (f", {size} ranks" if size > 1 else "")
        self.dtype = loaded.runner.dtype
        if loaded.ranks is not None:
            atexit.register(_close_if_alive, weakref.ref(self))

    def run(self, request: Request, trace: Trace | None = None) -> Iterator[Event]:
        """See `Engine.run`. A cancelled request frees its memory, except for the prefixes that it caches.

        Args:
            trace: filled with the request's tensors; with several ranks only with those of rank 0.
        """
        if self._ranks is not None:
            self._ranks.require_all_ranks()
        yield from map(Notice, self._runner.model.take_notices())
        if self._ranks is None:
            yield from process_timings.measure_events(self._runner.run(request, trace))
            return
        if self._caches_differ:
            self._runner.prefix_cache.clear()
        # Only rank 0 yields events, so the other ranks make no previews.
        without_previews = request if isinstance(request, AnswerRequest) else replace(request, preview_every=0)
        command = Run(without_previews, self._caches_differ)
        try:
            stream = self._ranks.stream_on_all(command, self._runner.run(request, trace))
            yield from process_timings.measure_events(stream)
        finally:
            # A rank that runs out of memory caches less than another. Their next prefill would run in other batches.
            cached = {0: self._runner.prefix_cache.lengths, **self._ranks.cached_tokens}
            size = self._ranks_per_prefix
            self._caches_differ = any(cached[rank] != cached[rank - rank % size] for rank in cached)

    def warm_up(self, size: str = "auto") -> None:
        """See `Engine.warm_up`. On a CPU nothing is compiled, and a step of a large model takes minutes."""
        if self._runner.model.device.type == "cpu":
            return
        for request in (
            GenerateRequest("warm-up", ImageSettings(size=size, num_steps=2)),
            AnswerRequest("warm-up", settings=TextSettings(max_tokens=4)),
        ):
            for _ in self.run(request):
                pass

    @property
    def card(self) -> Card:
        """See `Engine.card`."""
        return Card(self._model, self._runner.recommended)

    @property
    def description(self) -> str:
        """See `Engine.description`."""
        weights = f"; {self.weights_summary}" if self.weights_summary else ""
        return f"{self.dtype} on {self.device}{weights}"

    @property
    def weights_summary(self) -> str:
        """The location of the weights and the reason, in words. Empty if all weights are on the device, or if the
        settings name the layout."""
        return self._layout_summary or self._runner.model.describe()

    @property
    def loras(self) -> tuple[NamedLora, ...]:
        """See `Engine.loras`."""
        return self._runner.loras

    def use_loras(self, loras: Sequence[NamedLora]) -> None:
        """See `Engine.use_loras`."""
        if self._ranks is not None:
            self._ranks.run_on_all(UseLoras(tuple(loras)), lambda: self._runner.use_loras(loras))
        else:
            self._runner.use_loras(loras)

    def use_freed_memory(self) -> None:
        """See `Engine.use_freed_memory`."""
        self._runner.model.use_freed_memory()

    def predicted_peak(self, workload: "Workload") -> int:
        """Return the predicted peak of device memory for a workload, in bytes, weights included."""
        return self._runner.model.peak(workload)

    @property
    def cached_tokens(self) -> int:
        """Tokens in the prefix cache, of all branches; 0 while a request runs."""
        return sum(self._runner.prefix_cache.lengths.values())

    @property
    def cached_bytes(self) -> int:
        """Device memory of the prefix cache in bytes; an 8B model in bfloat16 needs 172 KB a token (42 layers)."""
        return self._runner.prefix_cache.nbytes

    def clear_cache(self) -> None:
        """Free the memory of the prefix cache. The next request prefills its whole prompt."""
        self._runner.prefix_cache.clear()
        if self._ranks is not None and self._ranks.lost is None:
            self._ranks.run_on_all(ClearCache(), lambda: None)

    @property
    def is_lost(self) -> bool:
        """Whether a process that shares the model was lost, so that the model has to be loaded again."""
        return self._ranks is not None and self._ranks.lost is not None

    def close(self) -> None:
        """Free the model's memory and end the processes that share it. The engine cannot be used afterwards.

        It is called automatically when the engine is garbage-collected or the program ends.
        """
        # The runner is closed first: its CUDA graphs contain collectives, and a rank cannot leave the process groups
        # while such a graph exists.
        self._runner.close()
        ranks, self._ranks = self._ranks, None
        if ranks is not None:
            ranks.close()

    def __del__(self) -> None:
        if getattr(self, "_ranks", None) is not None:
            self.close()


def import_loading(settings: LoadSettings) -> "Callable[..., LocalModel]":
    """Import PyTorch and everything that loads a model; return `load_model`."""
    with process_timings.phase(IMPORTS), creating_cuda_context(settings):
        from model.loading import load_model
    return load_model


def _close_if_alive(engine: "weakref.ref[LocalEngine]") -> None:
    if (alive := engine()) is not None:
        alive.close()
