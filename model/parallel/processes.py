"""Rank processes: how rank 0 runs commands on all ranks of a model, keeps the ranks in step, and ends them.

Rank 0 is the process that the user started. It sends commands over a control channel to each other rank and receives
their replies (`model.parallel.connections`). Tensors go through `model.parallel.collectives`. These rules keep the
ranks in step:

- Every rank runs every command. Only rank 0 reports events.
- A request yields the same events on every rank. After each event rank 0 sends CONTINUE or CANCEL. So a request that
  is cancelled ends at the same event everywhere, and no rank waits for a collective that another rank never starts.
- Rank 0 draws the noise and chooses the tokens, and broadcasts both.
- An error that follows from the request is raised by every rank, and the ranks stay in step. After any other error,
  such as out of memory on one rank, it is unknown which collectives the devices still wait for. So all ranks are ended,
  and the model is lost.
- A thread of rank 0 notices a lost rank when the rank's connection closes. It then ends the other ranks, which also
  interrupts a collective in which rank 0 waits. Rank 0 raises an error.
- The other ranks exit when rank 0's connection closes, however rank 0 ended.

`model.rank_main` is the main program of the other ranks. Importing this module does not import PyTorch.
"""

import contextlib
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from config.errors import SenseNovaError
from model.device_kinds import DeviceKind
from model.errors import RankError
from model.parallel.commands import (
    CANCEL,
    CONTINUE,
    RELOAD_HINT,
    REQUEST_ERRORS,
    CachedTokens,
    Command,
    Done,
    Failed,
    Rendezvous,
)
from model.parallel.connections import EXIT_SECONDS_AFTER_LOSS, RankConnections
from model.parallel.launch import own_device, threads_each
from model.parallel.layout import ParallelLayout

if TYPE_CHECKING:
    import torch

    from model.parallel.collectives import ProcessGroups

ERROR_SECONDS = 3.0
"""Time within which an error that follows from the request is raised by every rank."""
STUCK_SECONDS = 30.0
"""Time after which rank 0 is taken to be stuck in a collective with a lost rank."""

Item = TypeVar("Item")


class RankProcesses:
    """The other ranks of a model, as rank 0 uses them.

    Attributes:
        lost: the reason why the ranks were ended, or None.
        cached_tokens: each other rank's prefix cache after the last command; empty if the command failed.
    """

    def __init__(self, layout: ParallelLayout, device: "torch.device") -> None:
        """Start the ranks; returns when each has imported PyTorch.

        Args:
            device: `cpu`, or `cuda`, where rank k uses GPU k; `require_ranks` has allowed it.

        Raises:
            DeviceError: the port that MASTER_PORT names is taken.
            RankError: a rank ended at once, or a launcher's ranks cannot be used again.
        """
        self.lost: SenseNovaError | None = None
        self.cached_tokens: dict[int, CachedTokens] = {}
        self._layout, self._device = layout, device
        self._groups: ProcessGroups | None = None
        self._replies: queue.SimpleQueue[tuple[int, Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._commands = 0
        self._running = 0  # the number of the command that is running, or 0
        self._is_closed = self._loss_is_raised = False
        self._leave_thread: threading.Thread | None = None
        self._torch_threads = 0  # PyTorch's number before ranks shared the cores, or 0 if it was not changed
        self._connections = RankConnections(layout.size)
        try:
            threading.Thread(target=self._receive, name="ranks", daemon=True).start()
            self._wait_for_replies(None)
            if self.lost is not None:
                raise self.lost.fresh_copy()
            if not DeviceKind.of(device).is_gpu and "OMP_NUM_THREADS" not in os.environ:
                import torch

                self._torch_threads = torch.get_num_threads()
                torch.set_num_threads(threads_each(layout.size))
        except BaseException:
            self.close()
            raise

    def join_groups(self) -> "ProcessGroups":
        """Let all ranks join the process groups, and return rank 0's.

        Raises:
            SenseNovaError: a rank cannot use its device, or was lost.
        """
        from model.parallel.collectives import ProcessGroups

        connections = self._connections
        connections.send(Rendezvous(self._layout, self._device.type, connections.host, connections.port))
        # Joining waits for all ranks without a limit. So every rank first replies that it can join.
        replies = self._wait_for_replies(None)
        if self.lost is not None:
            raise self.lost.fresh_copy()
        for rank, reply in replies.items():
            if isinstance(reply, Failed):
                raise reply.to_error(rank)
        self._groups = ProcessGroups(self._layout, 0, own_device(self._device.type, 0), connections.store)
        return self._groups

    def run_on_all(self, command: Command, run: Callable[[], Item]) -> Item:
        """Run a command on all ranks; on rank 0 call `run`, and return its result.

        Raises:
            SenseNovaError: the command failed on a rank, or a rank was lost.
        """
        self._begin(command)
        try:
            result = run()
        except BaseException as error:
            self._finish(error)
            raise
        self._finish(None)
        return result

    def stream_on_all(self, command: Command, events: Iterator[Item]) -> Iterator[Item]:
        """Run a command on all ranks and yield rank 0's `events`; closing the iterator cancels it on all ranks.

        Raises:
            SenseNovaError: as for `run_on_all`.
        """
        self._begin(command)
        try:
            for event in events:
                self.require_all_ranks()
                yield event
                self._connections.send(CONTINUE)
        except GeneratorExit:
            self._connections.send(CANCEL)
            try:
                _close(events)
            finally:
                # The caller may be raising an error of its own. The next command reports a lost rank.
                with contextlib.suppress(SenseNovaError):
                    self._finish(None)
            raise
        except BaseException as error:
            try:
                _close(events)
            finally:
                self._finish(error)
            raise
        self._finish(None)

    def require_all_ranks(self) -> None:
        """Raise RankError if a rank was lost."""
        if self.lost is not None:
            self._loss_is_raised = True
            raise RankError(f"the processes that share the model were ended: {self.lost.what}", RELOAD_HINT)

    def close(self) -> None:
        """End the other ranks; returns when their processes are gone. Can be called again."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._connections.close()
        self._leave_groups()
        if self._leave_thread is not None:
            self._leave_thread.join(STUCK_SECONDS)
        if self._torch_threads:
            import torch

            torch.set_num_threads(self._torch_threads)

    # The running command

    def _begin(self, command: Command) -> None:
        self.require_all_ranks()
        if self._running:
            raise RuntimeError("a request is under way on several ranks: end it before another one begins")
        self._commands += 1
        self.cached_tokens = {}
        self._running = self._commands
        self._loss_is_raised = False
        self._connections.send(command)

    def _finish(self, error: BaseException | None) -> None:
        """Collect the replies, after rank 0 has run the command or failed with `error`.

        Raises:
            SenseNovaError: the command failed for another reason than `error`.
        """
        seconds = None if error is None else ERROR_SECONDS if isinstance(error, Exception) else 0.0
        try:
            replies = self._wait_for_replies(seconds)
        except BaseException:  # Ctrl-C: a late reply would be taken for the reply to the next command
            self._lose(RankError("the wait for the processes that share the model was interrupted", RELOAD_HINT))
            raise
        finally:
            self._running = 0
        if self.lost is not None:
            self._loss_is_raised = True
            _clear_frames(error)
            raise self.lost.fresh_copy() from error
        failed = {rank: reply for rank, reply in replies.items() if isinstance(reply, Failed)}
        if error is None and not failed:
            self.cached_tokens = {rank: done.cached_tokens for rank, done in replies.items() if isinstance(done, Done)}
            return
        if isinstance(error, REQUEST_ERRORS) and len(failed) == self._layout.size - 1:
            return
        if error is not None:
            self._lose(Failed.from_error(error).to_error(0))
            _clear_frames(error)
            return
        rank, reply = next(iter(failed.items()))
        reason = reply.to_error(rank)
        self._lose(reason)
        raise reason.fresh_copy()

    def _wait_for_replies(self, seconds: float | None) -> dict[int, Any]:
        """Return the other ranks' replies by rank; not all of them if time runs out or a rank is lost."""
        deadline = None if seconds is None else time.monotonic() + seconds
        replies: dict[int, Any] = {}
        while self.lost is None and len(replies) < self._layout.size - 1:
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                received = self._replies.get(timeout=remaining)
            except queue.Empty:
                break
            if received is not None:
                replies[received[0]] = received[1]
        return replies

    # Lost ranks

    def _receive(self) -> None:
        """Queue replies and notice lost ranks; runs in a thread."""
        for rank, reply in self._connections.receive():
            if reply is None:
                if not self._is_closed:
                    how = self._connections.exit_reason(rank)
                    self._lose(RankError(f"rank {rank} of {self._layout.size} {how}", RELOAD_HINT))
                continue
            command = self._running  # before rank 0 can see the reply and begin another command
            self._replies.put((rank, reply))
            if isinstance(reply, Failed) and command:
                # Rank 0 may wait in a collective that this rank never starts.
                _start_timer(ERROR_SECONDS, self._lose_if_running, command, reply.to_error(rank))

    def _lose(self, reason: SenseNovaError) -> None:
        """End all ranks. Rank 0 stops waiting for them, also in a collective."""
        with self._lock:
            if self.lost is not None or self._is_closed:
                return
            self.lost = reason
        self._connections.end(EXIT_SECONDS_AFTER_LOSS)
        self._replies.put(None)
        if DeviceKind.of(self._device).has_streams:
            self._leave_groups()
            _start_timer(STUCK_SECONDS, self._exit_if_stuck, self._running, reason)

    def _lose_if_running(self, command: int, reason: SenseNovaError) -> None:
        if self._running == command:
            self._lose(reason)

    def _exit_if_stuck(self, command: int, reason: SenseNovaError) -> None:
        if command and self._running == command and not self._loss_is_raised:
            os.write(2, f"\nerror: {reason.what}; this process still waits for it, and is ended\n".encode())
            os._exit(1)

    def _leave_groups(self) -> None:
        """Leave the process groups. On CUDA in a thread, because leaving waits for CUDA graphs, which are freed only
        when rank 0 has raised the error."""
        if self._groups is None or self._leave_thread is not None:
            return
        if not DeviceKind.of(self._device).has_streams:
            self._groups.leave()
        else:
            self._leave_thread = threading.Thread(target=self._groups.leave, name="leave", daemon=True)
            self._leave_thread.start()


def _close(events: Iterator[Any]) -> None:
    """Close a generator, so that its suspended frame holds no tensors any more."""
    if hasattr(events, "close"):
        events.close()


def _clear_frames(error: BaseException | None) -> None:
    """Clear the local variables of all frames that an error passed through.

    On CUDA they hold graphs, and the process groups cannot be left while a graph exists. A caller that keeps the error
    would then keep the next model from loading.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _start_timer(seconds: float, function: Callable[..., None], *arguments: object) -> None:
    timer = threading.Timer(seconds, function, arguments)
    timer.daemon = True  # the program does not wait for it to exit
    timer.start()
