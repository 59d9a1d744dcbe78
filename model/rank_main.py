"""The main program of every rank but rank 0: load a shard of the network, and run rank 0's commands without output.

Rank 0 starts it in a process of its own. Under a launcher, `sensenova_cli.__main__` calls it in all ranks but rank 0.
"""

import contextlib
import signal
import traceback
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, cast

from model.parallel.channel import ControlChannel, connect_to_rank_zero
from model.parallel.commands import (
    READY,
    REQUEST_ERRORS,
    ClearCache,
    Done,
    Failed,
    Load,
    Rendezvous,
    Reply,
    Run,
    UseLoras,
)
from model.parallel.launch import own_device

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch._C._distributed_c10d import Store

    from model.events import Event
    from model.parallel.collectives import ProcessGroups
    from model.runner import Runner


def run_rank(rank: int, connection: int | None = None) -> None:
    """Run rank 0's commands. This never returns: the process exits when rank 0 sends EXIT or closes its connection.

    Args:
        connection: file descriptor of the connection to rank 0; None under a launcher.
    """
    store = None
    if connection is None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)  # the wait for rank 0 is not in Python, so only this ends it at once
        channel, store = connect_to_rank_zero()
    else:
        channel = ControlChannel(Connection(connection))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 decides what Ctrl-C cancels
    from model.runner import Runner

    groups = _join_groups(rank, channel, store)
    runner: Runner | None = None
    while True:
        command = channel.next_command()
        reply: Reply
        try:
            if isinstance(command, Load):
                runner = Runner.load(command, groups.device, groups)
            else:
                assert runner is not None
                match command:
                    case Run():
                        _run(runner, command, channel)
                    case UseLoras():
                        runner.use_loras(command.loras)
                    case ClearCache():
                        runner.prefix_cache.clear()
            reply = Done(runner.prefix_cache.lengths)
        except Exception as error:
            if not isinstance(error, REQUEST_ERRORS):  # rank 0 raises and reports the same error
                traceback.print_exc()
            reply = Failed.from_error(error)
        channel.reply(reply)


def _join_groups(rank: int, channel: ControlChannel, store: "Store | None") -> "ProcessGroups":
    """Join the process groups when rank 0 sends the rendezvous."""
    import torch

    from model.parallel.collectives import ProcessGroups

    channel.reply(READY)
    rendezvous = cast(Rendezvous, channel.next_command())
    device = own_device(rendezvous.device, rank)
    try:
        if store is None:
            from torch._C._distributed_c10d import TCPStore

            store = TCPStore(rendezvous.host, rendezvous.port, is_master=False)
        torch.zeros(1, device=device)  # fails if other programs use all of the GPU's memory
        channel.reply(READY)
    except Exception as error:
        traceback.print_exc()
        channel.reply(Failed.from_error(error))
        channel.next_command()  # EXIT, which ends this process
        raise
    return ProcessGroups(rendezvous.layout, rank, device, store)


def _run(runner: "Runner", command: Run, channel: ControlChannel) -> None:
    if command.clear_cache:
        runner.prefix_cache.clear()
    with contextlib.closing(cast("Generator[Event]", runner.run(command.request))) as events:
        for _ in events:
            if not channel.may_continue():
                return
