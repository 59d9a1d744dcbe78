"""Servers that are not what a client expects, each on a free port of this machine."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Handler = Callable[[socket.socket], None]


@contextmanager
def listening(handle: Handler, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Answer every connection with `handle`, each in a thread; return the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            handle(context.wrap_socket(connection, server_side=True) if context else connection)

    def accept() -> None:
        while not ended.is_set():
            with suppress(OSError):
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        ended.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def answering(status: str, body: bytes | str, **headers: str) -> Handler:
    """Return a handler that gives every request the same answer."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]

    def handle(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + content)

    return handle


def routing(routes: dict[str, Handler]) -> Handler:
    """Return a handler that chooses another one by the path of the request; unknown paths get a 404."""

    def handle(connection: socket.socket) -> None:
        path = connection.recv(65536, socket.MSG_PEEK).split(b" ")[1].decode()
        routes.get(path, answering("404 Not Found", "<h1>Not Found</h1>"))(connection)

    return handle


def read_request(connection: socket.socket) -> bytes:
    """Read the head of a request, and what has come of its body."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(65536)
        if not part:
            break
        received += part
    return received


def certificate(folder: Path, name: str = "IP:127.0.0.1") -> ssl.SSLContext:
    """Make a self-signed certificate, `cert.pem` in the folder, and return the context of a server with it."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -keyout key.pem -out cert.pem"
    subprocess.run([*command.split(), "-addext", f"subjectAltName={name}"], cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context
