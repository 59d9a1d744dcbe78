"""Errors of the command line, and the exit code of every error."""

from config.errors import SenseNovaError, SettingsError

DONE = 0
FAILED = 1
WRONG_INPUT = 2
NO_WEIGHTS = 3
OUT_OF_MEMORY = 4
INTERRUPTED = 130


class UsageError(SenseNovaError):
    """An error in the arguments: two of them contradict each other, or one is missing or not supported."""


class OutputError(SenseNovaError):
    """An output that cannot be used. It is found before anything runs."""


class OutputWriteError(OutputError):
    """A failed write of a finished picture or document."""


class BatchError(SenseNovaError):
    """The end of a run of which some items have failed. The errors themselves were printed before."""


class SessionError(SenseNovaError):
    """An error of a session that does not exist, cannot be opened, or does not allow an operation."""


class EnhanceError(SenseNovaError):
    """A prompt that a model could not rewrite."""


class LogError(SenseNovaError):
    """A log that cannot be read or written."""


class SessionWriteError(SenseNovaError):
    """A failed write to a session's folder."""


def exit_code(error: SenseNovaError) -> int:
    """Return the exit code for an error; scripts distinguish kinds of failure by it."""
    match error:
        case OutputWriteError():
            return FAILED
        case UsageError() | OutputError() | SessionError():
            return WRONG_INPUT
    if type(error) is SettingsError:  # one of its subclasses is about weights
        return WRONG_INPUT
    # These imports take a while, which an error of usage must not.
    from config.recommended import RecommendationError
    from model import CheckpointError, DeviceMemoryError, RequestError

    match error:
        case CheckpointError() | RecommendationError():
            return NO_WEIGHTS
        case SettingsError() | RequestError():
            return WRONG_INPUT
        case DeviceMemoryError():
            return OUT_OF_MEMORY
        case _:
            return FAILED
