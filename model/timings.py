"""Times of the phases of a process, from its start to the first result.

The option `timings` and `sensenova bench startup` print them. A phase reads the clock twice, so phases are always
recorded. One thread at a time loads or runs a model, and only this thread records.
"""

import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import cast

from model.events import DenoisingStep, Event, Notice, PrefixRead, TextToken, ThinkToken, Waiting

PROGRAM = "program"
CARD = "card"
CONNECT = "connect"
IMPORTS = "imports"
DEVICE = "device"
PLACE = "place"
READ = "read"
COMPILE = "compile"
PREFILL = "prefill"
FIRST_STEP = "first step"
SERVER = "server"
PHASES = {
    PROGRAM: "start of Python, and imports of the command",
    CARD: "the checkpoint's settings, and the request",
    CONNECT: "connection to the server, until its model is loaded",
    IMPORTS: "PyTorch, and the part of the library that uses it",
    DEVICE: "choice and start of the device",
    PLACE: "tokenizer, network without weights, and its memory",
    READ: "weights, from the files to the device",
    COMPILE: "backend and its kernels, beyond reading",
    PREFILL: "the last request's prompt",
    FIRST_STEP: "the last request's first denoising step, or first token",
    SERVER: "the last request, until the server sends a first event or the result",
}
"""Every phase with its contents, in the order in which they run."""


class Timings:
    """The seconds of each phase. A phase inside another one does not count for the outer one."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._current: str | None = None
        self._since = 0.0

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a phase."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def restart(self, *names: str) -> None:
        """Discard the seconds of phases that begin again."""
        for name in names:
            self._seconds.pop(name, None)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the code inside the context as a part of a phase."""
        outer = self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def measure_events(self, stream: Iterator[Event]) -> Iterator[Event]:
        """Yield a request's events, and measure its prefill and its first step. They replace those of the last one."""
        self.restart(PREFILL, FIRST_STEP)
        clock, waiting = time.perf_counter(), True
        with closing(cast(Generator[Event], stream)) as events:
            for event in events:
                if waiting and isinstance(event, PrefixRead | DenoisingStep | ThinkToken | TextToken):
                    now = time.perf_counter()
                    waiting = isinstance(event, PrefixRead)
                    self.add(PREFILL if waiting else FIRST_STEP, now - clock)
                    clock = now
                yield event

    def measure_answer(self, stream: Iterator[Event]) -> Iterator[Event]:
        """Yield the events that a server sends for a request, and measure the time to the first one that is neither a
        notice nor about the queue."""
        self.restart(SERVER)
        clock, waiting = time.perf_counter(), True
        with closing(cast(Generator[Event], stream)) as events:
            for event in events:
                if waiting and not isinstance(event, Notice | Waiting):
                    waiting = False
                    self.add(SERVER, time.perf_counter() - clock)
                yield event

    def phases(self) -> dict[str, float]:
        """Return the seconds of each phase so far, in the order of `PHASES`."""
        return {name: self._seconds[name] for name in PHASES if name in self._seconds}

    def _switch(self, name: str | None) -> str | None:
        """End the current phase, begin another one, and return the name of the one before."""
        now = time.perf_counter()
        before, self._current = self._current, name
        if before is not None:
            self.add(before, now - self._since)
        self._since = now
        return before


process_timings = Timings()
"""The timings of this process."""
