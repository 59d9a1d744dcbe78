"""What can go wrong in the library, by who has to act on it."""

from config.errors import SenseNovaError


class RequestError(SenseNovaError):
    """The request cannot be carried out as it was asked: empty prompt, too many placeholders, …"""


class PictureError(RequestError):
    """An input picture is missing, unreadable or of an impossible shape."""


class WireError(SenseNovaError):
    """A request or an event in JSON cannot be read: a field is missing or has the wrong type, …"""


class CheckpointError(SenseNovaError):
    """Weights are missing, unreadable or not what the network needs."""


class DeviceError(RequestError):
    """The device that was asked for is not there."""


class DeviceMemoryError(SenseNovaError):
    """The device ran out of memory while loading or working."""


class NumericsError(SenseNovaError):
    """The arithmetic ended in NaN or infinity."""


class RankError(SenseNovaError):
    """One of the processes that share a model is lost, and with it the model: it has to be loaded again."""
