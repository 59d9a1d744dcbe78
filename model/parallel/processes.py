"""The ranks: processes that share one network. How they are started, told what to do, and ended.

Rank 0 is the process that the user started. It starts the others (or finds them, under torchrun), and has a
connection to each, over which go orders and answers; what they compute together goes other ways
(`model.parallel.collectives`). The rules that keep them in step:

- Every order is carried out by all ranks. The others do what rank 0 does and tell nobody.
- A request gives the same events on every rank. After each one, rank 0 says `GO` or `STOP`: so a request that is given
  up between two events ends at the same one everywhere, and nobody waits for a sum that never comes.
- Whatever is chosen, tokens and noise, is rank 0's.
- An error that follows from the request comes up on all ranks alike, and they stay in step. After any other one,
  such as memory that ran out on one of them, nobody can know what the device is still waiting for: the ranks are ended
  and the model is lost.
- A lost rank is noticed by the end of its connection, whatever anybody is doing. Rank 0 then ends the others, which
  also wakes it where it waits for them, and raises an error. The others leave when rank 0's connection ends, however
  rank 0 did.

What they say is in `model.parallel.channel`; `model.rank_main` is the main program of the other ranks.
Nothing here imports PyTorch before it has to.
"""

import contextlib
import json
import os
import queue
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing import Pipe
from multiprocessing.connection import Connection, Listener, wait
from typing import IO, TYPE_CHECKING, Any, TypeVar

from config.errors import SenseNovaError
from model.errors import DeviceError, RankError
from model.parallel.channel import (
    COMMON,
    END,
    GO,
    NO_RANKS,
    RELOAD,
    RENDEZVOUS_KEY,
    STOP,
    Failed,
    Rendezvous,
)
from model.parallel.launch import launched, own_device, threads_each

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import Store

    from model.parallel.collectives import ProcessGroups

GRACE = 3.0
"""Seconds within which an error that all ranks have comes up on all of them."""
ENDING = 5.0
"""Seconds that a rank has to leave before it is killed."""
LAST_RESORT = 30.0
"""Seconds after which rank 0 is taken to be stuck in an operation with a rank that is lost."""

Item = TypeVar("Item")


class RankProcesses:
    """Rank 0's view of the others.

    Attributes:
        size: how many there are, rank 0 included.
        lost: why they are gone, or None.
        results: of the last order, by rank, rank 0's left out; empty if it failed.
    """

    _ever_met = False

    def __init__(self, tensor: int, guidance: int, splits_und: bool, device: "torch.device") -> None:
        """Start them; returns when each has imported PyTorch.

        Args:
            tensor, guidance, splits_und: as of `model.parallel.collectives.Position`.
            device: `cuda`, of which rank k takes number k, or `cpu`; `require_ranks` has allowed it.

        Raises:
            DeviceError: the port that MASTER_PORT names is taken.
            RankError: one of them ended at once.
        """
        self.size = tensor * guidance
        self.lost: SenseNovaError | None = None
        self.results: dict[int, Any] = {}
        self._split, self._device = (tensor, guidance, splits_und), device
        self._groups: ProcessGroups | None = None
        self._store: Store
        self._host: str
        self._port = 0
        self._inbox: queue.SimpleQueue[tuple[int, Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._under_way = 0  # number of the order that is being carried out, 0 for none
        self._orders = 0
        self._ending = self._noticed = False
        self._leaving: threading.Thread | None = None
        self._threads = 0
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._errors: dict[int, IO[bytes]] = {}
        self._links: dict[int, Connection] = {}
        try:
            self._meet()
            threading.Thread(target=self._listen, name="ranks", daemon=True).start()
            self._wait_for_all(None)
            if self.lost is not None:
                raise self.lost.again()
            if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
                import torch

                self._threads = torch.get_num_threads()
                torch.set_num_threads(threads_each(self.size))
        except BaseException:
            self.close()
            raise

    def groups(self) -> "ProcessGroups":
        """Join the process groups, as the others do once they are told where.

        Raises:
            SenseNovaError: one of them has no device to itself, or was lost before.
        """
        from model.parallel.collectives import Position, ProcessGroups

        self._tell(Rendezvous(*self._split, self._device.type, self._host, self._port))
        # Who joins waits for all others, however long; so first everyone says that nothing keeps it from joining.
        answers = self._wait_for_all(None)
        if self.lost is not None:
            raise self.lost.again()
        for rank, answer in answers.items():
            if isinstance(answer, Failed):
                raise answer.error(rank)
        self._groups = ProcessGroups(Position(0, *self._split), own_device(self._device.type, 0), self._store)
        return self._groups

    # Orders

    def run_on_all(self, order: object, own: Callable[[], Item]) -> Item:
        """Have all ranks carry out an order, which for rank 0 is calling `own`.

        Raises:
            SenseNovaError: one of them failed, or was lost.
        """
        self._begin(order)
        try:
            result = own()
        except BaseException as error:
            self._settle(error)
            raise
        self._settle(None)
        return result

    def stream_on_all(self, order: object, events: Iterator[Item]) -> Iterator[Item]:
        """The events of an order, at each of which the others wait for whether it goes on; errors as above."""
        self._begin(order)
        try:
            for event in events:
                self.require_all_ranks()
                yield event
                self._tell(GO)
        except GeneratorExit:
            self._tell(STOP)
            try:
                _end(events)
            finally:
                # Whoever gives up a request has an error of their own to tell; the next one tells of a lost rank.
                with contextlib.suppress(SenseNovaError):
                    self._settle(None)
            raise
        except BaseException as error:
            try:
                _end(events)
            finally:
                self._settle(error)
            raise
        self._settle(None)

    def require_all_ranks(self) -> None:
        """Raise RankError if a rank was lost."""
        if self.lost is not None:
            self._noticed = True
            raise RankError(f"the processes that share the model were ended: {self.lost.what}", RELOAD)

    def _begin(self, order: object) -> None:
        self.require_all_ranks()
        if self._under_way:
            raise RuntimeError("a request is under way on several ranks: end it before another one begins")
        self._orders += 1
        self.results = {}
        self._under_way = self._orders
        self._noticed = False
        self._tell(order)

    def _settle(self, error: BaseException | None) -> None:
        """Rank 0 has done its part, or failed: find out about the others.

        Raises:
            SenseNovaError: another one than `error` is the reason why the order was not carried out.
        """
        patience = GRACE if isinstance(error, Exception) else None if error is None else 0.0
        try:
            answers = self._wait_for_all(patience)
        except BaseException:  # Ctrl-C: an answer that comes later would be taken for that to another order
            self._break(RankError("the processes that share the model were not waited for", RELOAD))
            raise
        finally:
            self._under_way = 0
        if self.lost is not None:
            self._noticed = True
            _let_go(error)
            raise self.lost.again() from error
        failed = {rank: answer for rank, answer in answers.items() if isinstance(answer, Failed)}
        if error is None and not failed:
            self.results = {rank: answer.result for rank, answer in answers.items()}
            return
        if isinstance(error, COMMON) and len(failed) == len(self._links):
            return
        other = next((each.error(rank) for rank, each in failed.items()), None)
        own = Failed.by(error) if error is not None else None
        reason = own.error(0) if own is not None else other
        assert reason is not None
        self._break(reason)
        _let_go(error)
        if error is None:
            raise reason.again()

    def _wait_for_all(self, seconds: float | None) -> dict[int, Any]:
        """The answers of the others by rank, as far as they come within the time and before one is lost."""
        end = None if seconds is None else time.monotonic() + seconds
        answers: dict[int, Any] = {}
        while self.lost is None and len(answers) < len(self._links):
            left = None if end is None else max(0.0, end - time.monotonic())
            try:
                answer = self._inbox.get(timeout=left)
            except queue.Empty:
                break
            if answer is not None:
                answers[answer[0]] = answer[1]
        return answers

    # Connections

    def _tell(self, message: object) -> None:
        with self._lock:
            for link in self._links.values():
                with contextlib.suppress(OSError):  # who is gone is noticed where answers come in
                    link.send(message)

    def _listen(self) -> None:
        """Take in answers until all connections are gone; runs in a thread of its own."""
        ranks = {link: rank for rank, link in self._links.items()}
        while ranks:
            for link in wait(list(ranks)):
                assert isinstance(link, Connection)
                try:
                    answer = link.recv()
                except (EOFError, OSError):
                    rank = ranks.pop(link)
                    if not self._ending:
                        self._break(RankError(f"rank {rank} of {self.size} {self._cause(rank)}", RELOAD))
                    continue
                rank, number = ranks[link], self._under_way
                self._inbox.put((rank, answer))
                if isinstance(answer, Failed) and number:
                    # Rank 0 may wait for a sum that this rank will not make.
                    _later(GRACE, self._break_if_under_way, number, answer.error(rank))

    def _break_if_under_way(self, number: int, reason: SenseNovaError) -> None:
        if self._under_way == number:
            self._break(reason)

    def _break(self, reason: SenseNovaError) -> None:
        """Give the ranks up. What waits for them, here or on the device, is woken."""
        with self._lock:
            if self.lost is not None or self._ending:
                return
            self.lost = reason
        self._end_others(at_once=True)
        self._inbox.put(None)
        if self._device.type == "cuda":
            self._leave_groups()
            _later(LAST_RESORT, self._leave_if_stuck, self._under_way, reason)

    def _leave_if_stuck(self, number: int, reason: SenseNovaError) -> None:
        if number and self._under_way == number and not self._noticed:
            os.write(2, f"\nerror: {reason.what}; this process still waits for it, and is ended\n".encode())
            os._exit(1)

    def _cause(self, rank: int) -> str:
        """How a process ended, in words."""
        process = self._processes.get(rank)
        if process is None:
            return "is gone"
        try:
            code = process.wait(2)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        if code < 0:
            return f"was killed ({signal.Signals(-code).name})"
        self._errors[rank].seek(0)
        said = self._errors[rank].read().decode(errors="replace").strip().splitlines()
        return f"ended with exit code {code}" + (f": {said[-1]}" if said else "")

    # Beginning and end

    def _meet(self) -> None:
        if launched() is None:
            self._spawn()
            return
        from torch.distributed.rendezvous import rendezvous

        store, _, _ = next(iter(rendezvous("env://", timeout=timedelta(minutes=5))))
        self._store, self._host = store, os.environ["MASTER_ADDR"]
        if RankProcesses._ever_met:
            raise RankError("ranks that torchrun has started cannot be started again", "run torchrun again")
        RankProcesses._ever_met = True
        key = secrets.token_bytes(32)
        with Listener(("", 0), authkey=key) as listener:
            store.set(RENDEZVOUS_KEY, json.dumps([self._host, listener.address[1], key.hex()]))
            for _ in range(self.size - 1):
                link = listener.accept()
                self._links[link.recv()] = link

    def _spawn(self) -> None:
        from torch._C._distributed_c10d import TCPStore

        if sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # they are all here, whatever the host's name means
        given = os.environ.get("MASTER_PORT") or "0"
        if not given.isdecimal():
            raise DeviceError(f"MASTER_PORT {given} is no port", "unset it, and a free one is taken")
        self._host, port = "127.0.0.1", int(given)
        try:
            store = TCPStore(self._host, port, self.size, is_master=True, wait_for_workers=False)
        except RuntimeError as error:
            raise DeviceError(
                f"the ranks cannot meet at port {port}, which is taken: {str(error).splitlines()[0]}",
                "unset MASTER_PORT, and a free one is taken; or set it to another one",
            ) from error
        self._store, self._port = store, store.port
        for rank in range(1, self.size):
            ours, theirs = Pipe()
            self._links[rank], self._errors[rank] = ours, tempfile.TemporaryFile()  # noqa: SIM115  # closed in `close`
            # The same modules as here, wherever they were found, and never those of the current folder.
            code = f"import sys; sys.path[:] = {sys.path!r}\n"
            code += f"from model.rank_main import run_rank; run_rank({rank}, {theirs.fileno()})"
            self._processes[rank] = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors[rank],
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C at the terminal is for rank 0 alone
                env={"OMP_NUM_THREADS": str(threads_each(self.size)), **os.environ},
            )
            theirs.close()

    def close(self) -> None:
        """End the others; returns when they have gone. Can be called again."""
        with self._lock:
            already, self._ending = self._ending, True
        if already:
            return
        self._end_others(at_once=False)
        self._leave_groups()
        if self._leaving is not None:
            self._leaving.join(LAST_RESORT)
        if self._threads:
            import torch

            torch.set_num_threads(self._threads)

    def _end_others(self, *, at_once: bool) -> None:
        with self._lock:
            for link in self._links.values():
                with contextlib.suppress(OSError):
                    link.send(END)
        end = time.monotonic() + (0.5 if at_once else ENDING)
        for process in self._processes.values():
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for file in self._errors.values():
            if not at_once:
                file.close()

    def _leave_groups(self) -> None:
        """On CUDA in a thread of its own: it waits for graphs that are let go of only where the error arrives."""
        if self._groups is None or self._leaving is not None:
            return
        if self._device.type != "cuda":
            self._groups.leave()
        else:
            self._leaving = threading.Thread(target=self._groups.leave, name="leave", daemon=True)
            self._leaving.start()


def _end(events: Iterator[Any]) -> None:
    """Have what stopped between two events hold nothing any more, either."""
    if hasattr(events, "close"):
        events.close()


def _let_go(error: BaseException | None) -> None:
    """Have the frames that an error came through hold nothing any more. On CUDA there are graphs among it, and while
    one of them is there the groups cannot be left: whoever looks at the error would keep the next model from loading.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def release_rank_processes() -> None:
    """As rank 0 under torchrun: nobody else was needed. Where there are no others, nobody has to be told."""
    if RankProcesses._ever_met:
        return
    from torch.distributed import DistError
    from torch.distributed.rendezvous import rendezvous

    with contextlib.suppress(DistError, ValueError):
        store, _, _ = next(iter(rendezvous("env://", timeout=timedelta(seconds=20))))
        store.set(RENDEZVOUS_KEY, NO_RANKS)


def _later(seconds: float, work: Callable[..., None], *arguments: object) -> None:
    timer = threading.Timer(seconds, work, arguments)
    timer.daemon = True  # nobody waits for it
    timer.start()
