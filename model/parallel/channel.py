"""What rank 0 and the others say to one another, beside the orders (`model.parallel.commands`)."""

import json
import os
import queue
import threading
import traceback
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Client, Connection
from typing import TYPE_CHECKING, Any, NoReturn

from config.errors import SenseNovaError
from model.errors import CheckpointError, NumericsError, RankError, RequestError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

GO, STOP, END, HERE = "go", "stop", "end", "here"
COMMON = (RequestError, CheckpointError, NumericsError)
"""Errors that follow from the request: they leave the ranks in step."""
RELOAD = "load the model again; in a session the next turn does"
RENDEZVOUS_KEY, NO_RANKS = "sensenova/ranks", b"nobody"


@dataclass(frozen=True)
class Rendezvous:
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


class ControlChannel:
    """Another rank's view of rank 0."""

    def __init__(self, link: Connection) -> None:
        self._link = link
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="leader", daemon=True).start()

    def next(self) -> Any:
        """The next order, however long it takes to come."""
        return self._inbox.get()

    def goes_on(self) -> bool:
        """Whether the request does, after an event."""
        return bool(self._inbox.get() == GO)

    def answer(self, answer: object) -> None:
        self._link.send(answer)

    def _listen(self) -> NoReturn:
        """In a thread of its own: whatever this process is doing, it leaves when rank 0 says so or is gone."""
        while True:
            try:
                message = self._link.recv()
            except (EOFError, OSError):
                os._exit(1)
            except BaseException:  # what cannot be understood cannot be followed
                traceback.print_exc()
                os._exit(1)
            if message == END:
                os._exit(0)
            self._inbox.put(message)


def connect_to_rank_zero() -> tuple[ControlChannel, "Store"]:
    """Rank 0's connection and the store, under torchrun. Leaves where rank 0 needs no other ranks."""
    from torch.distributed.rendezvous import rendezvous

    store, rank, _ = next(iter(rendezvous("env://", timeout=timedelta(days=1))))
    place = store.get(RENDEZVOUS_KEY)
    if place == NO_RANKS:
        raise SystemExit(0)
    host, port, key = json.loads(place)
    link = Client((host, port), authkey=bytes.fromhex(key))
    link.send(rank)
    return ControlChannel(link), store
