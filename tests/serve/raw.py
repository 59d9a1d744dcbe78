"""Plain sockets for tests that send what no HTTP library would send."""

import json
import socket
from collections.abc import Iterable
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from tests.waiting import PATIENCE

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers in lower case and body."""


def connect(url: str) -> socket.socket:
    """Connect to a server."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = socket.create_connection((parts.hostname, parts.port or 80), timeout=PATIENCE)
    connection.settimeout(PATIENCE)
    return connection


def exchange(url: str, request: bytes | Iterable[bytes]) -> Answer | None:
    """Send bytes and return the answer; None if the server closes the connection without one."""
    with closing(connect(url)) as connection:
        try:
            for part in [request] if isinstance(request, bytes) else request:
                connection.sendall(part)
        except OSError:  # the server has answered and closed the connection
            pass
        return read_answer(connection)


def read_answer(connection: socket.socket) -> Answer | None:
    """Read one answer whose length is declared; None if the connection is closed before one."""
    data = b""
    try:
        while b"\r\n\r\n" not in data:
            part = connection.recv(65536)
            if not part:
                return None
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = int(headers.get("content-length", "0"))
        while len(body) < length:
            part = connection.recv(65536)
            if not part:
                return None
            body += part
    except ConnectionError:
        return None
    return int(lines[0].split()[1]), headers, body[:length]


def get(path: str, *headers: str, host: str | None = "127.0.0.1", version: str = "1.1") -> bytes:
    """Return a GET request with exactly these headers."""
    lines = [f"GET {path} HTTP/{version}", *([f"Host: {host}"] if host is not None else []), *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def post(path: str, body: bytes, kind: str = "application/json", *headers: str, host: str = "127.0.0.1") -> bytes:
    """Return a POST request."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return ("\r\n".join([*lines, *headers]) + "\r\n\r\n").encode() + body


def error_in(answer: Answer | None) -> dict[str, Any]:
    """Return the error in an answer, which contains nothing of the server's code and folders."""
    assert answer is not None
    status, headers, body = answer
    assert 400 <= status < 600 and headers["content-type"] == "application/json", answer
    assert b"Traceback" not in body and b"/home/" not in body and b".py" not in body
    found: dict[str, Any] = json.loads(body)["error"]
    return found
