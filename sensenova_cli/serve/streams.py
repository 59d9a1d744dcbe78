"""Answers as JSON or as server-sent events. If the client goes away, its job is stopped."""

import asyncio
import json
import sys
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from sensenova_cli.serve.errors import ApiError, api_error
from sensenova_cli.serve.jobs import Job, Message, Position
from sensenova_cli.serve.service import Service
from sensenova_cli.system.unicode import valid_unicode

PING_SECONDS = 15.0
"""Time without an event after which a stream sends a comment: only a failing write shows that a client is gone."""

OPENAI_PATHS = ("/v1/images/", "/v1/chat/", "/v1/models")
"""Starts of the paths of OpenAI's API."""

_LINE_ENDS = {ord(char): f"\\u{ord(char):04x}" for char in "\x85\u2028\u2029"}
"""Characters that some clients take for the end of a line of a stream. JSON allows their escapes in texts."""


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an answer whose body is `content` as JSON."""
    return Response(encode(content), status, headers, media_type="application/json")


def error_response(error: ApiError, path: str) -> Response:
    """Return the answer to an error.

    Args:
        path: path of the request. Clients of `/sdapi` read the message in `detail`. OpenAI's show no hints.
    """
    content = error.json(hint_in_message=path.startswith(OPENAI_PATHS))
    if path.startswith("/sdapi/"):
        content = {"detail": error.message_and_hint, **content}
    return json_response(content, error.status, error.headers)


def encode(content: Any) -> bytes:
    """Return JSON in UTF-8 in one line."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).translate(_LINE_ENDS)
    return valid_unicode(text).encode()


def sse(content: Any, event: str | None = None) -> bytes:
    """Return one server-sent event."""
    head = f"event: {event}\n".encode() if event else b""
    return head + b"data: " + encode(content) + b"\n\n"


def comment(text: str) -> bytes:
    """Return a comment line, which clients skip."""
    return f": {text}\n\n".encode()


async def follow(job: Job) -> AsyncGenerator[Message | bytes]:
    """Yield a job's messages, and comments as bytes: pings, and positions in the queue.

    Raises:
        ApiError: the job failed or was stopped.
    """
    async with aclosing(job.listen(PING_SECONDS)) as messages:
        async for message in messages:
            if message is None:
                yield comment("ping")
                continue
            if isinstance(message, Position):
                yield comment(f"queued {message.position}" if message.position else "running")
            yield message
    require_done(job)


def require_done(job: Job) -> None:
    """Raise ApiError if a job was stopped, by its client or by another one."""
    if job.status == "cancelled":
        raise ApiError(409, "the request was stopped", "cancelled", headers={"x-should-retry": "false"})


def event_stream(service: Service, job: Job, events: AsyncGenerator[bytes]) -> Response:
    """Return a stream of server-sent events. If the client goes away before its end, the job is stopped.

    Args:
        events: the encoded events. An error that it raises becomes the event `{"error": …}`.
    """

    async def body() -> AsyncGenerator[bytes]:
        try:
            async with aclosing(events) as stream:
                async for event in stream:
                    yield event
        except Exception as error:
            if not isinstance(error, ApiError):
                traceback.print_exception(error, file=sys.stderr)
            yield sse(api_error(error).json(hint_in_message=True))

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Request-Id": job.id}
    return _EventStream(body(), headers, lambda: leave(service, job))


class _EventStream(StreamingResponse):
    """A stream that reports its end, also if the client is gone before the first event."""

    def __init__(self, events: AsyncGenerator[bytes], headers: dict[str, str], on_end: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


async def unless_gone(
    request: Request, service: Service, job: Job, make: Callable[[], Awaitable[Response]]
) -> Response:
    """Wait for an answer, and stop the job if the client goes away meanwhile.

    Args:
        request: its body must have been read, so that the next message is the end of the connection.
        make: waits for the job and returns the answer.
    """
    answer = asyncio.ensure_future(make())
    gone = asyncio.ensure_future(_wait_until_gone(request))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            service.scheduler.cancel(job)
            return Response(status_code=499)  # nobody reads it
        response = answer.result()
        response.headers["X-Request-Id"] = job.id
        return response
    finally:
        gone.cancel()
        answer.cancel()
        leave(service, job)


def leave(service: Service, job: Job) -> None:
    """Stop a job, unless it has ended, and drop its messages: its client has the answer or is gone."""
    service.scheduler.cancel(job)
    job.leave()


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
