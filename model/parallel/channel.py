"""The control channel: a rank's connection to rank 0. `model.parallel.connections` is rank 0's end of it."""

import json
import os
import queue
import threading
import traceback
from datetime import timedelta
from multiprocessing.connection import Client, Connection
from typing import TYPE_CHECKING, Any, NoReturn

from model.parallel.commands import CONTINUE, EXIT

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

RENDEZVOUS_KEY = "sensenova/ranks"
"""Key in a launcher's store under which rank 0 publishes the address of its listener."""
NO_RANKS = b"none"
"""Value of that key if rank 0 needs no other ranks."""


class ControlChannel:
    """A rank's connection to rank 0.

    A thread receives the messages, so that this process exits at once when rank 0 sends EXIT or is gone, even in the
    middle of a computation.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._received: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._receive, name="control channel", daemon=True).start()

    def next_command(self) -> Any:
        """Wait for the next command and return it."""
        return self._received.get()

    def may_continue(self) -> bool:
        """Wait for rank 0 after an event; return False if the request was cancelled."""
        return bool(self._received.get() == CONTINUE)

    def reply(self, reply: object) -> None:
        """Send a reply to rank 0."""
        self._connection.send(reply)

    def _receive(self) -> NoReturn:
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                os._exit(1)
            except BaseException:  # a message that cannot be unpickled: this rank can no longer stay in step
                traceback.print_exc()
                os._exit(1)
            if message == EXIT:
                os._exit(0)
            self._received.put(message)


def connect_to_rank_zero() -> tuple[ControlChannel, "Store"]:
    """Connect to rank 0 under a launcher; return the control channel and the launcher's store.

    Raises:
        SystemExit: rank 0 needs no other ranks.
    """
    from torch.distributed.rendezvous import rendezvous

    store, rank, _ = next(iter(rendezvous("env://", timeout=timedelta(days=1))))
    address = store.get(RENDEZVOUS_KEY)
    if address == NO_RANKS:
        raise SystemExit(0)
    host, port, key = json.loads(address)
    connection = Client((host, port), authkey=bytes.fromhex(key))
    connection.send(rank)
    return ControlChannel(connection), store
