"""Errors of the library."""

from config.errors import SenseNovaError


class RequestError(SenseNovaError):
    """A request that cannot run: its prompt is empty, it has too many placeholders, …"""


class PictureError(RequestError):
    """An input picture that is missing, unreadable or of an unsupported shape."""


class WireError(SenseNovaError):
    """A request or an event in JSON that cannot be read: a field is missing or has the wrong type, …"""


class CheckpointError(SenseNovaError):
    """A checkpoint that is missing, unreadable or does not fit the network."""


class DeviceError(RequestError):
    """A device that does not exist or does not support a setting."""


class DeviceMemoryError(SenseNovaError):
    """Not enough memory on the device to load a model or run a request."""


class NumericsError(SenseNovaError):
    """A result that is NaN or infinity."""


class ServerError(SenseNovaError):
    """A server that cannot be reached, was lost during a request, or does not answer as it should."""


class RankError(SenseNovaError):
    """A lost rank process. The model that it shared is lost, too, and must be loaded again."""
