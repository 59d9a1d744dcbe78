"""The HTTP server process: sockets, signals, and the order of start and end."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from sensenova_cli.serve.connections import Connection, Limits
from sensenova_cli.serve.scheduler import Scheduler
from sensenova_cli.system.first_signals import handled_signals
from sensenova_cli.system.interrupts import exit_now


class Server(uvicorn.Server):
    """A server that finishes the running request when it is asked to stop, and ends at once when asked twice."""

    def __init__(self, app: ASGIApp, scheduler: Scheduler) -> None:
        # A reverse proxy on this machine sends its client's address and scheme. Limits needs the real address.
        trusted = os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1")
        behind_proxy: Any = ProxyHeadersMiddleware(app, trusted)  # type: ignore[arg-type]  # its types are uvicorn's own
        config = uvicorn.Config(
            Limits(behind_proxy),
            proxy_headers=False,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            log_level="error",
            timeout_keep_alive=30,
            h11_max_incomplete_event_size=64 * 1024,
        )
        super().__init__(config)
        self._scheduler = scheduler
        self.on_stopping: Callable[[], None] = lambda: None

    async def run_on(self, listener: socket.socket) -> None:
        """Serve until a signal asks to stop, or until the model cannot be loaded."""
        scheduler = self._scheduler
        self._loop = asyncio.get_running_loop()
        ready = scheduler.on_ready

        def on_ready() -> None:
            ready()
            if scheduler.state == "failed":
                self.should_exit = True

        scheduler.on_ready = on_ready
        logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns about each client that hangs up
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it warns about each damaged form
        with self.capture_signals():
            scheduler.start()
            await self.serve(sockets=[listener])
            await asyncio.to_thread(scheduler.close)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while the server runs. Only the main thread can handle signals."""
        try:
            before = {number: signal.signal(number, self.handle_exit) for number in handled_signals()}
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
            exit_now()
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
