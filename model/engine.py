"""The engine: a model that turns a request into a stream of events. This is what every face of the program uses.

Nothing here imports PyTorch before a model is loaded into this process.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.check import Notation, check_values
from config.schema import LoadSettings
from model.card import Card
from model.events import Event, LoadProgress
from model.requests import Request
from model.weights.hub import DownloadPlan
from model.weights.named_lora import NamedLora

if TYPE_CHECKING:
    from model.local_engine import LocalEngine


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
            RequestError: the request cannot be carried out with this model.
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
            settings: load settings by name, as `config.schema.LoadSettings` declares them.

        Raises:
            SettingsError: a setting is unknown, of a wrong type or out of bounds.
            SenseNovaError: as for `open_engine`.
        """
        from model.local_engine import load_engine

        notation = Notation(lambda name: "", key=str, equals="=", literal=repr, text=False)
        checked = check_values({"model": str(checkpoint), **settings}, notation, LoadSettings.model_fields)
        return load_engine(LoadSettings.model_validate(checked), size=size, requests=requests, on_progress=on_progress)


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
    from model.local_engine import load_engine

    return load_engine(
        settings, size=size, requests=requests, on_progress=on_progress, on_plan=on_plan, on_download=on_download
    )
