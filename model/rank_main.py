"""The main program of every rank but 0: it loads its part of the network and runs what rank 0 orders, silently.

Rank 0 starts it as a process of its own; under torchrun it is what the other processes run.
"""

import contextlib
import os
import signal
import traceback
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, cast

from model.parallel.channel import COMMON, HERE, ControlChannel, Done, Failed, Rendezvous, connect_to_rank_zero
from model.parallel.launch import own_device

if TYPE_CHECKING:
    from collections.abc import Generator

    from model.events import Event
    from model.parallel.commands import Run
    from model.runner import Runner


def run_rank(rank: int, connection: int | None = None) -> None:
    """Follow rank 0, for good.

    Args:
        connection: file descriptor of the connection to it; where it is None torchrun's store says how to get one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 decides what Ctrl-C means
    store = None
    if connection is None:
        leader, store = connect_to_rank_zero()
    else:
        leader = ControlChannel(Connection(connection))
    import torch

    from model.parallel.collectives import Position, ProcessGroups
    from model.parallel.commands import ClearCache, Load, Run, UseLoras
    from model.runner import Runner

    leader.answer(HERE)
    meeting = cast(Rendezvous, leader.next())
    device = own_device(meeting.device, rank)
    try:
        if store is None:
            from torch._C._distributed_c10d import TCPStore

            store = TCPStore(meeting.host, meeting.port, is_master=False)
        torch.zeros(1, device=device)  # which fails where others have taken a GPU's memory
        leader.answer(HERE)
    except Exception as error:
        traceback.print_exc()
        leader.answer(Failed.by(error))
        leader.next()  # which ends this process
        raise
    groups = ProcessGroups(Position(rank, meeting.tensor, meeting.guidance, meeting.splits_und), device, store)
    runner: Runner | None = None
    while True:
        order = leader.next()
        try:
            if isinstance(order, Load):
                runner = Runner.load(order, groups.device, groups)
            else:
                assert runner is not None
                match order:
                    case Run():
                        _run(runner, order, leader)
                    case UseLoras():
                        runner.use_loras(order.loras)
                    case ClearCache():
                        runner.forget()
            answer: Done | Failed = Done(runner.cached_lengths)
        except Exception as error:
            if not isinstance(error, COMMON):  # those rank 0 has, too, and tells
                traceback.print_exc()
            answer = Failed.by(error)
        leader.answer(answer)


def _run(runner: "Runner", order: "Run", leader: ControlChannel) -> None:
    if order.forget:
        runner.forget()
    with contextlib.closing(cast("Generator[Event]", runner.run(order.request))) as events:
        for _ in events:
            if not leader.goes_on():
                return


if __name__ == "__main__":
    run_rank(int(os.environ["RANK"]))
