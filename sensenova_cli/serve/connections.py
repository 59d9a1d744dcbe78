"""Limits of time and size for connections, so that no client can hold memory or a connection for long."""

import asyncio
from typing import Any, ClassVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from sensenova_cli.serve.bodies import MAX_BODY
from sensenova_cli.serve.errors import ApiError, bad_request, unavailable
from sensenova_cli.serve.streams import encode

HEADER_SECONDS = 20.0
"""Time in which a client must send the headers of a request."""
BODY_SECONDS = 60.0
"""Time in which the next part of a body must arrive."""
UPLOAD_SECONDS = 600.0
"""Time in which a whole body must arrive."""
WRITE_SECONDS = 60.0
"""Time in which a client must read the next part of an answer."""
PART_BYTES = 256 * 1024
"""Maximum number of bytes of a part of an answer."""
MAX_CONNECTIONS = 500
"""Maximum number of open connections. Further ones are closed at once."""
MAX_BODIES = 2 * MAX_BODY
"""Maximum number of bytes of the bodies of all requests that have no complete answer yet."""


class Connection(H11Protocol):
    """An HTTP/1.1 connection that is closed if its client does not complete the headers of a request."""

    open: ClassVar[dict[Any, asyncio.Transport]] = {}
    """Transports of all connections by the client's address."""
    _headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit of a new connection, or close it if there are too many."""
        super().connection_made(transport)
        self.open[self.client] = transport
        transport.set_write_buffer_limits(0)  # the next part of an answer waits until this one is sent
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        self._limit_headers()

    def data_received(self, data: bytes) -> None:
        """Process received bytes."""
        super().data_received(data)
        self._limit_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._headers_due is not None:
            self._headers_due.cancel()
        self.open.pop(self.client, None)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP."""
        if self._is_busy:  # an answer to an earlier request may have begun
            self.transport.abort()
            return
        body = encode(bad_request("this is not an HTTP request", code="invalid_http").json())
        head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.transport.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, also if its client has not read the end of an answer."""
        self.transport.abort()

    @property
    def _is_busy(self) -> bool:
        """Whether a request with complete headers has no complete answer yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _limit_headers(self) -> None:
        if self._is_busy:
            if self._headers_due is not None:
                self._headers_due.cancel()
            self._headers_due = None
        elif self._headers_due is None:
            self._headers_due = self.loop.call_later(HEADER_SECONDS, self.transport.abort)


class Limits:
    """Ends requests whose bodies are too large or too slow, and answers that their client does not read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request within the limits."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _LimitedBody(scope, receive, self)
        try:
            await self._app(scope, body.receive, _LimitedAnswer(scope, send).send)
        finally:
            self._bytes -= body.size

    def take(self, size: int) -> None:
        """Count bytes of a body.

        Raises:
            ApiError: all bodies together are too large.
        """
        if self._bytes + size > MAX_BODIES:
            raise unavailable("other requests are using the memory for bodies", "too_many_bodies", "try again later")
        self._bytes += size


class _LimitedBody:
    """The body of a request.

    Attributes:
        size: bytes so far.
    """

    def __init__(self, scope: Scope, receive: Receive, limits: Limits) -> None:
        self.size = 0
        declared = Headers(scope=scope).get("content-length", "0")
        self._declared = int(declared) if declared.isdecimal() else 0
        self._receive = receive
        self._limits = limits
        self._is_complete = False
        self._due = asyncio.get_running_loop().time() + UPLOAD_SECONDS

    async def receive(self) -> Message:
        """Return the next part.

        Raises:
            ApiError: the body is too large, or does not arrive in time, or the client is gone.
        """
        if self._is_complete:
            return await self._receive()  # waits for the end of the connection
        if self._declared > MAX_BODY:
            raise _too_large()
        seconds = min(BODY_SECONDS, self._due - asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(seconds):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(408, "the body did not arrive in time", "timeout") from None
        if message["type"] == "http.disconnect":
            raise bad_request("the body is not complete", code="disconnected")  # nobody reads this
        part = len(message.get("body", b""))
        if self.size + part > MAX_BODY:
            raise _too_large()
        self._limits.take(part)
        self.size += part
        self._is_complete = not message.get("more_body", False)
        return message


class _LimitedAnswer:
    """The answer to a request."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._client = scope["client"]
        self._send = send

    async def send(self, message: Message) -> None:
        """Send a message in parts. Close the connection if the client does not read one of them in time."""
        if message["type"] != "http.response.body":
            await self._send_in_time(message)
            return
        body = message.get("body", b"")
        for start in range(0, len(body), PART_BYTES):
            part = body[start : start + PART_BYTES]
            await self._send_in_time({**message, "body": part, "more_body": True})
        if not message.get("more_body", False):
            await self._send_in_time({**message, "body": b""})

    async def _send_in_time(self, message: Message) -> None:
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._send(message)
        except TimeoutError:
            if transport := Connection.open.get(self._client):
                transport.abort()
                await asyncio.sleep(0)  # lets the connection process its end, so that nothing more is sent


def _too_large() -> ApiError:
    return ApiError(413, f"the body has more than {MAX_BODY:,} bytes", "too_large")
