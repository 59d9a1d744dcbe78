"""Errors of the command line itself, and the exit code of every error."""

from config.errors import SenseNovaError, SettingsError
from config.recommended import RecommendationError
from model import CheckpointError, DeviceMemoryError, RequestError

DONE = 0
FAILED = 1
WRONG_INPUT = 2
NO_WEIGHTS = 3
OUT_OF_MEMORY = 4
INTERRUPTED = 130


class UsageError(SenseNovaError):
    """The arguments contradict each other, one is missing, or one is not supported."""


class OutputError(SenseNovaError):
    """Pictures cannot go where the user wants them; found before anything runs."""


class OutputWriteError(OutputError):
    """A finished picture could not be written to its place."""


class SessionError(SenseNovaError):
    """There is no such session, it cannot be read or opened, or what was asked of it is not possible."""


class SessionWriteError(SenseNovaError):
    """What happened in a session could not be written down."""


def exit_code(error: SenseNovaError) -> int:
    """The exit code that tells a script what kind of failure this was."""
    match error:
        case OutputWriteError():
            return FAILED
        case CheckpointError() | RecommendationError():
            return NO_WEIGHTS
        case UsageError() | SettingsError() | RequestError() | OutputError() | SessionError():
            return WRONG_INPUT
        case DeviceMemoryError():
            return OUT_OF_MEMORY
        case _:
            return FAILED
