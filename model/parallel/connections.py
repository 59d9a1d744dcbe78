"""Rank 0's connections to the other ranks: how the ranks start or are found, and how they exit.

Rank 0 starts the other ranks as processes of its own. Under a launcher (`model.parallel.launch`) they run already, and
find rank 0 through the launcher's store.

Importing this module does not import PyTorch.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import IO, TYPE_CHECKING, Any, cast

import config
import model
from model.errors import DeviceError, RankError
from model.parallel.channel import NO_RANKS, RENDEZVOUS_KEY
from model.parallel.commands import EXIT
from model.parallel.launch import LAUNCHERS, launched, threads_each
from model.parallel.launched_connections import RankConnection, accept_ranks

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

EXIT_SECONDS = 5.0
"""Time for a rank to exit before it is killed."""
EXIT_SECONDS_AFTER_LOSS = 0.5
"""Time for a rank to exit when another rank is lost. It is short: a rank that waits for the lost one cannot exit."""


class RankConnections:
    """The connections from rank 0 to the other ranks, and the processes that rank 0 started.

    Attributes:
        store: the store through which ranks join process groups.
        host, port: its address; port 0 for a launcher's store.
        processes: the processes that rank 0 started, by rank; empty under a launcher.
    """

    accepted_launched_ranks = False

    def __init__(self, size: int) -> None:
        """Start ranks 1 to `size` - 1, or accept those that a launcher has started.

        Raises:
            DeviceError: the port that MASTER_PORT names is taken.
            RankError: the launcher's ranks had a model before and have exited.
        """
        self.store: Store
        self.host: str
        self.port = 0
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self._stderr: dict[int, IO[bytes]] = {}
        self._connections: dict[int, RankConnection] = {}
        self._send_lock = threading.Lock()
        try:
            if launched() is None:
                self._start(size)
            else:
                self._accept(size)
        except BaseException:
            self.close()
            raise

    def send(self, message: object) -> None:
        """Send a message to all ranks. `receive` reports ranks that are gone."""
        with self._send_lock:
            for connection in self._connections.values():
                with contextlib.suppress(OSError):
                    connection.send(message)

    def receive(self) -> Iterator[tuple[int, Any]]:
        """Yield (rank, reply) as replies arrive, and (rank, None) when a connection closes; end when all are closed."""
        ranks = {connection: rank for rank, connection in self._connections.items()}
        while ranks:
            for ready in wait(list(ranks)):  # type: ignore[arg-type]  # anything with fileno
                connection = cast(RankConnection, ready)
                try:
                    reply = connection.recv()
                except (EOFError, OSError):
                    yield ranks.pop(connection), None
                    continue
                yield ranks[connection], reply

    def exit_reason(self, rank: int) -> str:
        """Describe how a rank's process ended, as the predicate of a sentence."""
        process = self.processes.get(rank)
        if process is None:
            return "is gone"
        try:
            code = process.wait(2)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        if code < 0:
            return f"was killed ({signal.Signals(-code).name})"
        self._stderr[rank].seek(0)
        lines = self._stderr[rank].read().decode(errors="replace").strip().splitlines()
        return f"ended with exit code {code}" + (f": {lines[-1]}" if lines else "")

    def end(self, seconds: float) -> None:
        """Send EXIT to all ranks, and kill processes that have not exited after `seconds`."""
        self.send(EXIT)
        deadline = time.monotonic() + seconds
        for process in self.processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def close(self) -> None:
        """End all ranks, and close the files with their error output."""
        self.end(EXIT_SECONDS)
        for file in self._stderr.values():
            file.close()

    def _start(self, size: int) -> None:
        from torch._C._distributed_c10d import TCPStore

        if sys.platform == "linux":
            # All ranks run on this host; without this, gloo would resolve the host's name.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        port = os.environ.get("MASTER_PORT") or "0"
        if not port.isdecimal():
            raise DeviceError(f"MASTER_PORT {port} is not a port number", "unset it to use a free port")
        self.host = "127.0.0.1"
        try:
            store = TCPStore(self.host, int(port), size, is_master=True, wait_for_workers=False)
        except RuntimeError as error:
            raise DeviceError(
                f"the ranks cannot meet at port {port}, which is in use: {str(error).splitlines()[0]}",
                "unset MASTER_PORT to use a free port, or set it to another one",
            ) from error
        self.store, self.port = store, store.port
        own_packages = [(package.__name__, package.__file__) for package in (config, model)]
        for rank in range(1, size):
            ours, theirs = Pipe()
            self._connections[rank] = ours
            self._stderr[rank] = tempfile.TemporaryFile()  # noqa: SIM115  # closed in `close`
            # The rank imports the same modules as this process, none from the current folder, and our own packages
            # even if a folder of PYTHONPATH has modules of their names.
            code = (
                f"import importlib.util, sys; sys.path[:] = {sys.path!r}\n"
                f"for name, file in {own_packages!r}:\n"
                "    spec = importlib.util.spec_from_file_location(name, file)\n"
                "    sys.modules[name] = importlib.util.module_from_spec(spec)\n"
                "    spec.loader.exec_module(sys.modules[name])\n"
                f"from model.rank_main import run_rank; run_rank({rank}, {theirs.fileno()})"
            )
            self.processes[rank] = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr[rank],
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # only rank 0 receives Ctrl-C from the terminal
                env={"OMP_NUM_THREADS": str(threads_each(size)), **os.environ},
            )
            theirs.close()

    def _accept(self, size: int) -> None:
        from torch.distributed.rendezvous import rendezvous

        if RankConnections.accepted_launched_ranks:
            raise RankError(f"ranks that {LAUNCHERS} has started cannot be started again", "run that command again")
        self.store, _, _ = next(iter(rendezvous("env://", timeout=timedelta(minutes=5))))
        RankConnections.accepted_launched_ranks = True
        self.host = os.environ["MASTER_ADDR"]
        self._connections = accept_ranks(size, lambda address: self.store.set(RENDEZVOUS_KEY, address))


def release_rank_processes() -> None:
    """End the ranks that a launcher has started if this process, rank 0, has not used them."""
    if RankConnections.accepted_launched_ranks:
        return
    from torch.distributed import DistError
    from torch.distributed.rendezvous import rendezvous

    with contextlib.suppress(DistError, ValueError, KeyboardInterrupt):
        store, _, _ = next(iter(rendezvous("env://", timeout=timedelta(seconds=10))))
        store.set(RENDEZVOUS_KEY, NO_RANKS)
