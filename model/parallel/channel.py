"""The control channel: a rank's connection to rank 0. `model.parallel.connections` is rank 0's end of it."""

import os
import queue
import socket
import sys
import threading
import time
import traceback
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from config.errors import SenseNovaError
from model.parallel.commands import CONTINUE, EXIT
from model.parallel.launched_connections import RankConnection, connect

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

RENDEZVOUS_KEY = "sensenova/ranks"
"""Key in a launcher's store under which rank 0 publishes the address of its listener."""
CONNECT_SECONDS = 180
"""Time in which a rank must reach the launcher's store."""
NO_RANKS = b"none"
"""Value of that key if rank 0 needs no other ranks."""


class ControlChannel:
    """A rank's connection to rank 0.

    A thread receives the messages, so that this process exits at once when rank 0 sends EXIT or is gone, even in the
    middle of a computation.
    """

    def __init__(self, connection: RankConnection) -> None:
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
        SystemExit: rank 0 needs no other ranks, cannot be reached, or may be a stranger.
    """
    _wait_for_store(os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"])
    from torch.distributed.rendezvous import rendezvous

    # Rank 0 may have to download the model before it answers.
    store, rank, _ = next(iter(rendezvous("env://", timeout=timedelta(days=1))))
    address = store.get(RENDEZVOUS_KEY)
    if address == NO_RANKS:
        raise SystemExit(0)
    try:
        return ControlChannel(connect(address.decode(errors="replace"), rank)), store
    except SenseNovaError as error:
        print(f"error: rank {rank}: {error.what}\nhint: {error.hint}", file=sys.stderr)
        raise SystemExit(1) from error


def _wait_for_store(host: str, port: str) -> None:
    """Wait until somebody listens where the launcher's store should be. A cluster may set a launcher's variables for
    programs that no launcher has started; PyTorch would wait for hours, and print stack traces of its C++ code.

    Raises:
        SystemExit: nobody listens there in time.
    """
    rank, end = os.environ["RANK"], time.monotonic() + CONNECT_SECONDS
    reason = "it takes too long"
    told = False
    while time.monotonic() < end:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except (OSError, ValueError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
        if not told:
            print(f"rank {rank} waits for rank 0 at {host}:{port} ({reason})", file=sys.stderr, flush=True)
            told = True
        time.sleep(0.5)
    print(
        f"error: rank {rank} cannot reach rank 0 at {host}:{port}: {reason}\n"
        "hint: a launcher sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; unset them to run without one",
        file=sys.stderr,
    )
    raise SystemExit(1)
