"""Opening of the model that the settings name: on this machine, or on a server.

Importing this module does not import PyTorch; loading a model into this process does.
"""

from collections.abc import Callable, Sequence

from config.settings import LoadSettings
from model.checkpoint.card import Card, read_local_card
from model.checkpoint.hub import DownloadPlan
from model.engine import Engine, LocalEngine, import_loading
from model.events import LoadProgress
from model.requests import Request


def read_card(settings: LoadSettings, on_progress: Callable[[LoadProgress], None] | None = None) -> Card:
    """Read the card of the model that the settings name, as `model.checkpoint.card.read_local_card`.

    With the setting `server`, it is the card of that server's model. If the server is still loading, wait for it.

    Args:
        on_progress: called while the server is loading.

    Raises:
        CheckpointError: the model does not exist or cannot be reached, or a LoRA cannot be read.
        RecommendationError: the recommended settings are damaged.
        ServerError, RequestError: as for `open_engine`.
    """
    if settings.is_remote:
        from model.remote.servers import read_server_card  # an HTTP library, which a model here does not need

        return read_server_card(settings, on_progress)
    return read_local_card(settings)


def has_room(settings: LoadSettings, size: str = "auto") -> bool:
    """Return whether a model fits beside what is loaded; arguments and errors as for `model.loading.has_room`."""
    if settings.is_remote:
        return True
    from model.loading import has_room  # imports PyTorch

    return has_room(settings, size)


def open_engine(
    settings: LoadSettings,
    *,
    size: str = "auto",
    requests: Sequence[Request] | None = None,
    on_progress: Callable[[LoadProgress], None] | None = None,
    on_plan: Callable[[DownloadPlan], None] | None = None,
    on_download: Callable[[int, int], None] | None = None,
) -> Engine:
    """Open the model that the settings name. It is downloaded first if it is not in the Hub cache. With the setting
    `server`, it is the model of that server.

    Args:
        size: the picture size to reserve memory for, as in the settings, if `requests` make no picture. A later request
            that needs more memory loads the model again.
        requests: the first requests, if they are known. Memory is reserved for the largest picture among them.
        on_progress: called now and then with the bytes read so far. An exception that it raises ends the loading.
        on_plan, on_download: called with the plan of a download, and with the bytes fetched and to fetch.

    Raises:
        SettingsError: settings contradict each other.
        CheckpointError: the checkpoint is missing or damaged.
        RecommendationError: the checkpoint's recommended settings are damaged.
        DeviceError: the device does not exist, there are fewer GPUs than ranks, or the network cannot be split into
            that number of shards.
        RankError: a rank was lost while the model was loading.
        DeviceMemoryError: the weights do not fit, or `gpu_memory` is below the smallest working set.
        ServerError: the server cannot be reached, or is not one for these models.
    """
    if settings.is_remote:
        from model.remote.servers import open_server

        return open_server(settings, on_progress)
    loaded = import_loading(settings)(
        settings, size=size, requests=requests, on_progress=on_progress, on_plan=on_plan, on_download=on_download
    )
    return LocalEngine(loaded)
