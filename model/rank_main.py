"""The main program of every rank but 0: it loads its part of the network and runs what rank 0 orders, silently.

Rank 0 starts it as a process of its own; under torchrun it is what the other processes run.
"""

import contextlib
import os
import signal
import traceback
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, cast

from model.parallel.channel import COMMON, HERE, Done, Failed, Meeting
from model.parallel.launch import own_device
from model.parallel.leader import Leader, find_leader

if TYPE_CHECKING:
    from collections.abc import Generator

    from model.events import Event
    from model.parallel.commands import Run
    from model.runner import Worker


def run_rank(rank: int, connection: int | None = None) -> None:
    """Follow rank 0, for good.

    Args:
        connection: file descriptor of the connection to it; where it is None torchrun's store says how to get one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 decides what Ctrl-C means
    store = None
    if connection is None:
        leader, store = find_leader()
    else:
        leader = Leader(Connection(connection))
    import torch

    from model.parallel.collectives import Groups, Position
    from model.parallel.commands import Forget, Load, Run, UseLoras
    from model.runner import Worker

    leader.answer(HERE)
    meeting = cast(Meeting, leader.next())
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
    groups = Groups(Position(rank, meeting.tensor, meeting.guidance, meeting.splits_und), device, store)
    worker: Worker | None = None
    while True:
        order = leader.next()
        try:
            if isinstance(order, Load):
                worker = Worker.load(order, groups.device, groups)
            else:
                assert worker is not None
                match order:
                    case Run():
                        _run(worker, order, leader)
                    case UseLoras():
                        worker.use_loras(order.loras)
                    case Forget():
                        worker.forget()
            answer: Done | Failed = Done(worker.kept_lengths)
        except Exception as error:
            if not isinstance(error, COMMON):  # those rank 0 has, too, and tells
                traceback.print_exc()
            answer = Failed.by(error)
        leader.answer(answer)


def _run(worker: "Worker", order: "Run", leader: Leader) -> None:
    if order.forget:
        worker.forget()
    with contextlib.closing(cast("Generator[Event]", worker.perform(order.request))) as events:
        for _ in events:
            if not leader.goes_on():
                return


if __name__ == "__main__":
    run_rank(int(os.environ["RANK"]))
