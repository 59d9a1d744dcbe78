"""Another rank's view of rank 0. Nothing here imports PyTorch before it has to: it is what a new rank runs first."""

import json
import os
import queue
import threading
import traceback
from datetime import timedelta
from multiprocessing.connection import Client, Connection
from typing import TYPE_CHECKING, Any, NoReturn

from model.parallel.channel import END, GO, MEETING_PLACE, NOBODY

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store


class Leader:
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


def find_leader() -> tuple[Leader, "Store"]:
    """Rank 0's connection and the store, under torchrun. Leaves where rank 0 needs no other ranks."""
    from torch.distributed.rendezvous import rendezvous

    store, rank, _ = next(iter(rendezvous("env://", timeout=timedelta(days=1))))
    place = store.get(MEETING_PLACE)
    if place == NOBODY:
        raise SystemExit(0)
    host, port, key = json.loads(place)
    link = Client((host, port), authkey=bytes.fromhex(key))
    link.send(rank)
    return Leader(link), store
