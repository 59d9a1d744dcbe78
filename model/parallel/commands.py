"""Commands from rank 0 to the other ranks, and their replies: plain values, which are pickled.

The first command is `Rendezvous`. A rank sends one reply to each command: READY or `Failed` to a rendezvous, `Done` or
`Failed` to all others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from config.errors import SenseNovaError
from config.settings import LoadSettings
from model.checkpoint.named_lora import NamedLora
from model.errors import CheckpointError, NumericsError, RankError, RequestError
from model.events import Branch
from model.parallel.layout import ParallelLayout
from model.requests import FirstUse, Request

CONTINUE, CANCEL = "continue", "cancel"
"""Rank 0's messages after each event of a request."""
EXIT = "exit"
"""Rank 0's message that ends a rank's process."""
READY = "ready"
"""A rank's message when it has imported PyTorch, and again when it can join the process groups."""
REQUEST_ERRORS = (RequestError, CheckpointError, NumericsError)
"""Errors that follow from a command itself, so every rank raises them at the same point."""
RELOAD_HINT = "load the model again; in a session the next turn does"

CachedTokens = Mapping[Branch, int]
"""The tokens that a rank caches, by branch."""


@dataclass(frozen=True)
class Rendezvous:
    """Join the process groups.

    Attributes:
        device: `cuda` or `cpu`.
        host, port: address of rank 0's store. Not used under a launcher, which has a store of its own.
    """

    layout: ParallelLayout
    device: str
    host: str
    port: int


@dataclass(frozen=True)
class Load:
    """Load this rank's shard of a checkpoint.

    Attributes:
        folder: the checkpoint's folder, downloaded already.
        settings: the load settings, checked.
        size: the picture size to reserve memory for, as in the settings.
        first_use: the passes of the first request, as far as they are known.
        text_tokens: tokens to reserve memory for if the first requests draw no picture.
    """

    folder: Path
    settings: LoadSettings
    size: str
    first_use: FirstUse = field(default_factory=FirstUse)
    text_tokens: int = 0


@dataclass(frozen=True)
class Run:
    """Run a request. After each event rank 0 sends CONTINUE or CANCEL.

    Attributes:
        clear_cache: whether to clear the prefix cache first.
    """

    request: Request
    clear_cache: bool


@dataclass(frozen=True)
class UseLoras:
    """Replace the merged LoRAs."""

    loras: Sequence[NamedLora]


@dataclass(frozen=True)
class ClearCache:
    """Clear the prefix cache."""


Command = Load | Run | UseLoras | ClearCache


@dataclass(frozen=True)
class Done:
    """The reply to a command that succeeded.

    Attributes:
        cached_tokens: the rank's prefix cache after the command.
    """

    cached_tokens: CachedTokens


@dataclass(frozen=True)
class Failed:
    """The reply to a command that failed.

    Attributes:
        kind: the error's type if it is a SenseNovaError, else RankError.
        what, hint: its message.
    """

    kind: type[SenseNovaError]
    what: str
    hint: str

    @classmethod
    def from_error(cls, error: BaseException) -> "Failed":
        """Return the reply that reports an error."""
        if isinstance(error, SenseNovaError):
            return cls(type(error), error.what, error.hint)
        return cls(RankError, f"{type(error).__name__}: {error}", RELOAD_HINT)

    def to_error(self, rank: int) -> SenseNovaError:
        """Return the error, whose message names the rank."""
        return self.kind(f"rank {rank}: {self.what}", self.hint)


Reply = Done | Failed
