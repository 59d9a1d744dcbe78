"""Processes that make the lessons of coming training steps while the device trains."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.queues import Queue
from queue import Empty, Full
from typing import Any

from tokenizers import Tokenizer

from model.demo.training.tables import Batch, Encoder, make_batch

WAITING = 4
"""Batches that each process makes in advance."""
SECONDS_BETWEEN_CHECKS = 5.0
"""Time after which a process with nothing to do looks whether the training still runs."""


class Workers:
    """Processes that make batches. They end with the process that started them.

    Attributes:
        waited: seconds that the training has waited for batches.
    """

    def __init__(self, tokenizer: Tokenizer, *, first_step: int, rows: int, processes: int, rank: int = 0) -> None:
        """Start the processes. Do this before the first use of a GPU, because they are forks of this process.

        Args:
            first_step: the step of the first batch.
            rows, rank: as for `make_batch`.
        """
        self.waited = 0.0
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        context: Any = get_context("fork")  # systems without it have a type without `Process`
        self._queues: list[Queue[Batch]] = [context.Queue(WAITING) for _ in range(processes)]
        self._processes = [
            context.Process(
                target=_make_batches,
                args=(queue, tokenizer.to_str(), range(first_step + number, 2**31, processes), rows, rank, os.getpid()),
                daemon=True,
            )
            for number, queue in enumerate(self._queues)
        ]
        for process in self._processes:
            process.start()

    def batches(self) -> Iterator[Batch]:
        """Yield the batches of all steps from the first one on, without end.

        Raises:
            RuntimeError: a process has ended.
        """
        while True:
            for queue, process in zip(self._queues, self._processes, strict=True):
                began = time.monotonic()
                while True:
                    with suppress(Empty):
                        batch = queue.get(timeout=SECONDS_BETWEEN_CHECKS)
                        break
                    if not process.is_alive():
                        raise RuntimeError(f"a process that makes lessons has ended with code {process.exitcode}")
                self.waited += time.monotonic() - began
                yield batch

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()


def _make_batches(queue: "Queue[Batch]", tokenizer: str, steps: range, rows: int, rank: int, parent: int) -> None:
    encoder = Encoder(Tokenizer.from_str(tokenizer))
    for step in steps:
        batch = make_batch(step, encoder, rows, rank)
        while True:
            with suppress(Full):
                queue.put(batch, timeout=SECONDS_BETWEEN_CHECKS)
                break
            if os.getppid() != parent:
                return
