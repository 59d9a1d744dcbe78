"""A TCP proxy in front of a server, which harms one event of a request's answer."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

RUN = b"POST /v1/sensenova/run "
EVENT = b"event: "


class Cut(Exception):
    """Ends a connection. Its bytes are forwarded first."""

    def __init__(self, rest: bytes = b"") -> None:
        super().__init__()
        self.rest = rest


Harm = Callable[[bytes], bytes]
"""Gets the bytes of an event and what follows it; returns what to send instead, or raises `Cut`."""


@dataclass
class Proxy:
    """A running proxy.

    Attributes:
        port: its port.
        at: number of the event to harm, from 0.
        harm: what to do with it; None forwards everything.
        harmed: set when it has been done.
        refuses: close new connections at once.
        requests: first lines of all requests that passed.
    """

    port: int
    at: int = 0
    harm: Harm | None = None
    harmed: threading.Event = field(default_factory=threading.Event)
    refuses: bool = False
    requests: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def proxying(target: Callable[[], int]) -> Iterator[Proxy]:
    """Run a proxy; `target` returns the port of the server when a connection begins."""
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = Proxy(int(listener.getsockname()[1]))
    ended = threading.Event()

    def accept() -> None:
        while not ended.is_set():
            with suppress(OSError):
                client, _ = listener.accept()
                if proxy.refuses:
                    client.close()
                    continue
                threading.Thread(target=_serve, args=(proxy, client, target), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield proxy
    finally:
        ended.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _serve(proxy: Proxy, client: socket.socket, target: Callable[[], int]) -> None:
    with client, suppress(OSError), socket.create_connection(("127.0.0.1", target())) as server:
        is_run = threading.Event()
        threading.Thread(target=_forward_requests, args=(proxy, client, server, is_run), daemon=True).start()
        _forward_answers(proxy, server, client, is_run)
        for each in (client, server):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def _forward_requests(proxy: Proxy, client: socket.socket, server: socket.socket, is_run: threading.Event) -> None:
    with suppress(OSError):
        while part := client.recv(65536):
            line = part.partition(b"\r\n")[0].decode(errors="replace")
            if line.endswith("HTTP/1.1"):
                proxy.requests.append(line.removesuffix(" HTTP/1.1"))
            if part.startswith(RUN):
                is_run.set()
            server.sendall(part)
    with suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)


def _forward_answers(proxy: Proxy, server: socket.socket, client: socket.socket, is_run: threading.Event) -> None:
    seen, held = 0, b""
    while received := server.recv(65536):
        part, held = held + received, b""
        while is_run.is_set() and proxy.harm is not None and not proxy.harmed.is_set():
            start = part.find(EVENT)
            if start < 0:
                # The start of the next event may have arrived without its end.
                length = next((size for size in range(len(EVENT) - 1, 0, -1) if part.endswith(EVENT[:size])), 0)
                part, held = part[: len(part) - length], part[len(part) - length :]
                break
            if seen == proxy.at:
                client.sendall(part[:start])
                proxy.harmed.set()
                try:
                    part = proxy.harm(part[start:])
                except Cut as cut:
                    client.sendall(cut.rest)
                    return
                break
            seen += 1
            client.sendall(part[: start + len(EVENT)])
            part = part[start + len(EVENT) :]
        client.sendall(part)
    client.sendall(held)
