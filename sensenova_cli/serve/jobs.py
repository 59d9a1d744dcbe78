"""A job: one turn that a client has asked for, from the queue to its result."""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Literal

from model import (
    Answer,
    DenoisingStep,
    Event,
    InterleavedAnswer,
    NamedLora,
    Notice,
    Picture,
    PrefixRead,
    Statistics,
    TextPart,
    ThinkText,
)
from sensenova_cli.outputs.picture_record import PictureRecord
from sensenova_cli.serve.errors import ApiError
from sensenova_cli.system.interrupts import Stop
from sensenova_cli.turns.build_request import Turn

Status = Literal["queued", "running", "done", "failed", "cancelled"]

MAX_UNREAD_PREVIEWS = 8
"""Previews that wait for a slow listener. Older ones are dropped."""


@dataclass(frozen=True)
class FinishedPicture:
    """A finished picture whose PNG file is made on another thread.

    Attributes:
        picture: the event, with an empty image: the file has the real one.
        record: how the picture was made, which is in the file; None if records are off.
        encoding: becomes the file.
    """

    picture: Picture
    record: PictureRecord | None
    encoding: "asyncio.Future[bytes]"

    @property
    def png(self) -> "asyncio.Future[bytes]":
        """A future of the file. A listener that goes away while it waits does not cancel it for others."""
        return asyncio.shield(self.encoding)


@dataclass(frozen=True)
class Position:
    """The place of a job in the queue: 0 while it runs."""

    position: int


Message = Event | FinishedPicture | Position
"""A message that a listener of a job receives."""

RESULTS = (FinishedPicture, Notice, ThinkText, Answer, InterleavedAnswer, PrefixRead, Statistics)
"""Messages that are kept for a client that has lost its connection."""


class Job:
    """A turn to run. All methods belong to the event loop's thread, except for `stop`, which any thread may use.

    Attributes:
        id: name of the job for clients.
        loras: the LoRAs to merge before it runs; None for those that are merged already.
        stop: ends the turn between two steps or tokens.
        status, error: the state; the error of a failed job.
        position: its place in the queue; 0 while it runs.
        created_at: value of `time.time` when the request arrived.
        results: finished pictures, texts and statistics so far.
        finished_at: value of `time.monotonic` at its end.
    """

    def __init__(self, turn: Turn, loras: tuple[NamedLora, ...] | None = None, notices: tuple[str, ...] = ()) -> None:
        self.id = f"req-{secrets.token_hex(12)}"
        self._turn: Turn | None = turn
        self._is_left = False
        self.loras = loras
        self.stop = Stop()
        self.status: Status = "queued"
        self.error: ApiError | None = None
        self.position = 0
        self.created_at = time.time()
        self._created = time.monotonic()
        self.finished_at = 0.0
        self.results: list[Event | FinishedPicture] = [Notice(text) for text in (*notices, *turn.warnings)]
        self._unread: deque[Message] = deque(self.results)
        self._changed = asyncio.Event()

    @property
    def turn(self) -> Turn:
        """The turn, with its checked request. It is forgotten when the job has ended and its client has the answer."""
        assert self._turn is not None
        return self._turn

    @property
    def seconds(self) -> float:
        """Time from the request to the end of the job, or to now."""
        return (self.finished_at or time.monotonic()) - self._created

    @property
    def is_finished(self) -> bool:
        """Whether the job has ended: it is done, has failed or was cancelled."""
        return self.status in ("done", "failed", "cancelled")

    def publish(self, message: Message) -> None:
        """Give an event to the listener, and keep it if it is a result."""
        if isinstance(message, DenoisingStep) and message.preview is not None:
            self._drop_old_previews()
        if isinstance(message, Position):
            self.position = message.position
        elif isinstance(message, RESULTS):
            self.results.append(message)
        if not self.is_finished and not self._is_left:
            self._unread.append(message)
            self._changed.set()

    def finish(self, status: Literal["done", "failed", "cancelled"], error: ApiError | None = None) -> None:
        """End the job. Further calls change nothing."""
        if self.is_finished:
            return
        self.status, self.error, self.finished_at = status, error, time.monotonic()
        self._changed.set()

    async def listen(self, ping_seconds: float) -> AsyncGenerator[Message | None]:
        """Yield the messages in order until the job ends; None after `ping_seconds` without one.

        Only one listener can follow a job. A slow listener loses previews, and nothing else.

        Raises:
            ApiError: the job failed.
        """
        while True:
            while self._unread:
                yield self._unread.popleft()
            if self.is_finished:
                if self.error is not None:
                    raise self.error
                return
            self._changed.clear()
            try:
                async with asyncio.timeout(ping_seconds):
                    await self._changed.wait()
            except TimeoutError:
                yield None

    async def wait(self) -> None:
        """Wait for the end of the job.

        Raises:
            ApiError: the job failed.
        """
        async for _ in self.listen(ping_seconds=3600):
            pass

    def leave(self) -> None:
        """Drop unread and future messages, because the listener is gone. The results stay."""
        self._is_left = True
        self._unread.clear()
        self.free_request()

    def free_request(self) -> None:
        """Forget the turn, whose pictures can take hundreds of megabytes, once nobody needs it."""
        if self._is_left and self.is_finished:
            self._turn = None

    @property
    def size_in_memory(self) -> int:
        """Bytes of its finished files, and characters of its answers."""
        files = [result.encoding for result in self.results if isinstance(result, FinishedPicture)]
        ready = [file.result() for file in files if file.done() and not file.cancelled() and not file.exception()]
        texts = [each.text for each in self.results if isinstance(each, Answer)]
        for answer in self.results:
            if isinstance(answer, InterleavedAnswer):
                texts += [part.text for part in answer.parts if isinstance(part, TextPart)]
        return sum(map(len, ready)) + sum(map(len, texts))

    def _drop_old_previews(self) -> None:
        """Drop unread previews until there is room for one more."""
        with_preview = [
            index
            for index, message in enumerate(self._unread)
            if isinstance(message, DenoisingStep) and message.preview is not None
        ]
        for index in with_preview[: max(0, len(with_preview) + 1 - MAX_UNREAD_PREVIEWS)]:
            message = self._unread[index]
            assert isinstance(message, DenoisingStep)
            self._unread[index] = replace(message, preview=None)
