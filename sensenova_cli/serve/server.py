"""The HTTP server process: sockets, time limits of connections, signals, and the order of start and end."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, ClassVar

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from sensenova_cli.errors import FAILED, INTERRUPTED
from sensenova_cli.serve.bodies import BODY_SECONDS
from sensenova_cli.serve.errors import ApiError
from sensenova_cli.serve.scheduler import Scheduler

HEADER_SECONDS = 20.0
"""Time in which a new connection must send the headers of its request."""
WRITE_SECONDS = 60.0
"""Time in which a client must read the next part of an answer."""
MAX_CONNECTIONS = 1000


class Connection(H11Protocol):
    """An HTTP/1.1 connection that is closed if its client sends nothing."""

    open: ClassVar[dict[Any, asyncio.Transport]] = {}
    """Transports of all connections by the client's address."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit of a new connection."""
        super().connection_made(transport)
        self.open[self.client] = transport
        self._headers_due = self.loop.call_later(HEADER_SECONDS, self._close_silent)

    def handle_events(self) -> None:
        """Process received bytes; the time limit ends with the headers."""
        super().handle_events()
        if self.cycle is not None:
            self._headers_due.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._headers_due.cancel()
        self.open.pop(self.client, None)
        super().connection_lost(exc)

    def _close_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.abort()


class TimeLimits:
    """Ends requests whose body stops arriving, and answers that their client does not read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request within the limits."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body_complete = False

        async def receive_in_time() -> Message:
            nonlocal body_complete
            if body_complete:
                return await receive()  # waits for the end of the connection
            try:
                message = await asyncio.wait_for(receive(), BODY_SECONDS)
            except TimeoutError:
                raise ApiError(408, "the body did not arrive in time", "timeout") from None
            body_complete = not message.get("more_body", False)
            return message

        async def send_in_time(message: Message) -> None:
            try:
                await asyncio.wait_for(send(message), WRITE_SECONDS)
            except TimeoutError:
                transport = Connection.open.get(scope["client"])
                if transport is not None:
                    transport.abort()
                raise

        await self._app(scope, receive_in_time, send_in_time)


class Server(uvicorn.Server):
    """A server that finishes the running request when it is asked to stop, and ends at once when asked twice."""

    def __init__(self, app: ASGIApp, scheduler: Scheduler) -> None:
        config = uvicorn.Config(
            TimeLimits(app),
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=30,
            h11_max_incomplete_event_size=64 * 1024,
        )
        super().__init__(config)
        self._scheduler = scheduler
        self.exit_code = 0
        self.on_stopping: Callable[[], None] = lambda: None

    async def run_on(self, listener: socket.socket) -> None:
        """Serve until a signal asks to stop, or until the model cannot be loaded."""
        scheduler = self._scheduler
        self._loop = asyncio.get_running_loop()
        ready = scheduler.on_ready

        def on_ready() -> None:
            ready()
            if scheduler.state == "failed":
                self.exit_code, self.should_exit = FAILED, True

        scheduler.on_ready = on_ready
        scheduler.start()
        await self.serve(sockets=[listener])
        await asyncio.to_thread(scheduler.close)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while the server runs; in other threads than the main one there are none."""
        handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        try:
            before = {number: signal.signal(number, self.handle_exit) for number in handled}
        except ValueError:  # not the main thread
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; a second signal ends the process at once."""
        if self.should_exit:
            os._exit(INTERRUPTED)
        self.should_exit = True
        self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self.on_stopping()
        self._scheduler.drain()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        OSError: the address does not exist here, or the port is taken or needs privileges.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(512)
    except BaseException:
        listener.close()
        raise
    return listener
