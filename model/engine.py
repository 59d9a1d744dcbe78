"""The engine: a model that turns a request into a stream of events. This is what every face of the program uses.
`LocalEngine` is the one whose weights are in this process.

Nothing here imports PyTorch before a model is loaded into this process.
"""

import atexit
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.settings import LoadSettings
from config.validation import Notation, check_values
from model.checkpoint.card import Card
from model.checkpoint.hub import DownloadPlan
from model.checkpoint.named_lora import NamedLora
from model.events import Event, LoadProgress, Notice
from model.parallel.commands import CachedTokens, ClearCache, Run, UseLoras
from model.requests import AnswerRequest, Request
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
    """

    @abstractmethod
    def run(self, request: Request) -> Iterator[Event]:
        """Run a request and yield its events as they happen. The last one is `Statistics`.

        Closing the iterator between two events cancels the request; the engine stays usable.

        Raises:
            RequestError: this model cannot run the request.
            CheckpointError: a change of LoRAs was cut off.
            PictureError: an input picture cannot be used.
            DeviceMemoryError: it does not fit in the device's memory.
            NumericsError: the result came out as NaN or infinity.
            RankError: a process that shares the model was lost: see `is_lost`.
        """

    @property
    @abstractmethod
    def card(self) -> Card:
        """What the model says about itself, with what its LoRAs recommend now."""

    @property
    @abstractmethod
    def description(self) -> str:
        """One line: number format, device, and where the weights are."""

    @property
    @abstractmethod
    def loras(self) -> tuple[NamedLora, ...]:
        """The LoRAs that the weights hold."""

    @abstractmethod
    def use_loras(self, loras: Sequence[NamedLora]) -> None:
        """Replace the merged LoRAs; with none the weights are exactly what the checkpoint holds.

        If it is interrupted after it has begun, no request runs until another call succeeds.

        Raises:
            CheckpointError: one cannot be read or does not fit, which changes nothing; or the checkpoint's files
                cannot be read any more.
            DeviceMemoryError: the matrices that are read again do not fit beside the rest.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what the engine holds; it cannot be used afterwards."""

    @property
    def is_lost(self) -> bool:
        """Whether a process that the engine needs was lost, so that it has to be opened again."""
        return False

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
            checkpoint: a folder, a Hugging Face Hub id (downloaded when it is not in the cache), or `demo`.
            size, requests, on_progress: as for `open_engine`.
            settings: load settings by name, as `config.settings.LoadSettings` declares them.

        Raises:
            SettingsError: a setting is unknown, of a wrong type or out of bounds.
            SenseNovaError: as for `open_engine`.
        """
        from model.loading import load_model

        notation = Notation(lambda name: "", key=str, equals="=", literal=repr, text=False)
        checked = check_values({"model": str(checkpoint), **settings}, notation, LoadSettings.model_fields)
        loaded = load_model(LoadSettings.model_validate(checked), size=size, requests=requests, on_progress=on_progress)
        return LocalEngine(loaded)


class LocalEngine(Engine):
    """A checkpoint loaded into this process.

    The engine caches the prefixes of the last request. The next request reuses matching tokens and frees the rest
    before prefill, so a second question about a picture does not read the picture again. The cache never changes a
    picture's bytes; an answer may be prefilled in other batches.

    Attributes:
        checkpoint: the folder it was loaded from.
        device, dtype: where and in which number format it runs.

    Several GPUs, or other processes on a CPU, may share a model. This process is then the first of them, and starts
    and ends the others (`model.parallel.processes`).
    """

    def __init__(self, loaded: "LocalModel") -> None:
        """Use `Engine.load` or `open_engine`."""
        self._model = loaded.name
        self._runner = loaded.runner
        self._ranks = loaded.ranks
        groups = loaded.groups
        self._read_together = groups.und.shard.count if groups else 1  # ranks that read the same, one after another
        self._uneven = False
        self._layout = loaded.layout
        self.checkpoint = loaded.runner.model.folder
        size = groups.position.size if groups else 1
        self.device = str(loaded.runner.model.device) + (f", {size} ranks" if size > 1 else "")
        self.dtype = loaded.runner.dtype
        if loaded.ranks is not None:
            atexit.register(_close, weakref.ref(self))

    @property
    def cached_tokens(self) -> int:
        """Tokens that are kept for the next request, all branches together; none while a request is under way."""
        return self._runner.cached_tokens

    @property
    def cached_bytes(self) -> int:
        """Memory on the device that `cached_tokens` take; an 8B model in bfloat16 has 172 KB (42 layers) for each."""
        return self._runner.cached_bytes

    @property
    def cached_lengths(self) -> CachedTokens:
        """`cached_tokens`, branch by branch; of several ranks only what this one has read."""
        return self._runner.cached_lengths

    def forget(self) -> None:
        """Free the memory of what is kept; the next request reads everything."""
        self._runner.forget()
        if self._ranks is not None and self._ranks.lost is None:
            self._ranks.run_on_all(ClearCache(), lambda: None)

    @property
    def is_lost(self) -> bool:
        """Whether a process that shares the model was lost, so that it has to be loaded again."""
        return self._ranks is not None and self._ranks.lost is not None

    def close(self) -> None:
        """Free the model's memory, and end the processes that share it. Happens by itself when nobody has the engine
        any more; it cannot be used afterwards."""
        # CUDA graphs hold operations that ranks share: they have to go before the ranks do.
        self._runner.close()
        ranks, self._ranks = self._ranks, None
        if ranks is not None:
            ranks.close()

    def __del__(self) -> None:
        if getattr(self, "_ranks", None) is not None:
            self.close()

    @property
    def weights_summary(self) -> str:
        """Where the weights are and why, in words. Empty if all are on the device or spread as the settings say."""
        return self._layout or self._runner.model.describe()

    def predicted_peak(self, work: "Workload") -> int:
        """Bytes of the device's memory that this work is predicted to take, the weights included."""
        return self._runner.model.peak(work)

    def use_loras(self, loras: Sequence[NamedLora]) -> None:
        """As `Engine.use_loras`."""
        if self._ranks is not None:
            self._ranks.run_on_all(UseLoras(tuple(loras)), lambda: self._runner.use_loras(loras))
        else:
            self._runner.use_loras(loras)

    @property
    def loras(self) -> tuple[NamedLora, ...]:
        """As `Engine.loras`."""
        return self._runner.loras

    @property
    def card(self) -> Card:
        """As `Engine.card`."""
        return Card(self._model, self._runner.recommended)

    @property
    def description(self) -> str:
        """As `Engine.description`."""
        placed = f"; {self.weights_summary}" if self.weights_summary else ""
        return f"{self.dtype} on {self.device}{placed}"

    def run(self, request: Request, trace: Trace | None = None) -> Iterator[Event]:
        """As `Engine.run`. The memory of a cancelled request is freed, but for the prefixes that are kept.

        Args:
            trace: filled with the request's tensors; of several ranks only with those of rank 0.
        """
        if self._ranks is not None:
            self._ranks.require_all_ranks()
        yield from map(Notice, self._runner.model.take_notices())
        if self._ranks is None:
            yield from self._runner.run(request, trace)
            return
        if self._uneven:
            self._runner.forget()
        # Only rank 0 yields events, so the others make no previews.
        others = request if isinstance(request, AnswerRequest) else replace(request, preview_every=0)
        try:
            yield from self._ranks.stream_on_all(Run(others, self._uneven), self._runner.run(request, trace))
        finally:
            # One rank may have had no memory to keep what another one keeps; they would then read in other portions.
            kept, size = {0: self._runner.cached_lengths, **self._ranks.results}, self._read_together
            self._uneven = any(kept[rank] != kept[rank - rank % size] for rank in kept)


def _close(engine: "weakref.ref[LocalEngine]") -> None:
    """At the end of the program."""
    if (alive := engine()) is not None:
        alive.close()


def open_engine(
    settings: LoadSettings,
    *,
    size: str = "auto",
    requests: Sequence[Request] | None = None,
    on_progress: Callable[[LoadProgress], None] | None = None,
    on_plan: Callable[[DownloadPlan], None] | None = None,
    on_download: Callable[[int, int], None] | None = None,
) -> Engine:
    """Open the model that the settings name, downloaded first when it is not in the cache.

    Args:
        size: the picture size to reserve memory for, as in the settings, where no request draws. A later request that
            needs more memory loads the model again.
        requests: the first requests, if they are known. Memory is reserved for the largest picture among them.
        on_progress: called now and then with the bytes read so far. What it raises ends the loading.
        on_plan, on_download: called with what a download will fetch, and with the bytes fetched and to fetch.

    Raises:
        SettingsError: settings contradict each other.
        CheckpointError: the checkpoint is missing or damaged.
        RecommendationError: its recommended settings are damaged.
        DeviceError: there is no such device, there are fewer GPUs than ranks, or the network cannot be shared by so
            many.
        RankError: a rank was lost while it was loading.
        DeviceMemoryError: the weights do not fit; or less than the smallest working set may be used.
    """
    from model.loading import load_model

    loaded = load_model(
        settings, size=size, requests=requests, on_progress=on_progress, on_plan=on_plan, on_download=on_download
    )
    return LocalEngine(loaded)
