"""What rank 0 and the others say to one another, beside the orders (`model.parallel.commands`)."""

from dataclasses import dataclass
from typing import Any

from config.errors import SenseNovaError
from model.errors import CheckpointError, NumericsError, RankError, RequestError

GO, STOP, END, HERE = "go", "stop", "end", "here"
COMMON = (RequestError, CheckpointError, NumericsError)
"""Errors that follow from the request: they leave the ranks in step."""
RELOAD = "load the model again; in a session the next turn does"
MEETING_PLACE, NOBODY = "sensenova/ranks", b"nobody"


@dataclass(frozen=True)
class Meeting:
    """Where a rank finds the others: the first thing it is told. A port of 0 is torchrun's store.

    Attributes:
        tensor, guidance, splits_und: as of `model.parallel.collectives.Position`.
    """

    tensor: int
    guidance: int
    splits_und: bool
    device: str
    host: str
    port: int


@dataclass(frozen=True)
class Done:
    """An order was carried out."""

    result: Any


@dataclass(frozen=True)
class Failed:
    """An order was not. The error's own type is one of `model.errors`, or RankError for all others."""

    kind: type[SenseNovaError]
    what: str
    hint: str

    @classmethod
    def by(cls, error: BaseException) -> "Failed":
        if isinstance(error, SenseNovaError):
            return cls(type(error), error.what, error.hint)
        return cls(RankError, f"{type(error).__name__}: {error}", RELOAD)

    def error(self, rank: int) -> SenseNovaError:
        return self.kind(f"rank {rank}: {self.what}", self.hint)
