"""Clients that send too much, too slowly or not HTTP, and clients that do not read: the next request works."""

import io
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from PIL import Image

from sensenova_cli.serve import connections
from sensenova_cli.serve.bodies import MAX_BODY
from tests.serve.conftest import Served
from tests.serve.hostile import EDITS, GENERATIONS, RUN, form, peak_memory, png, survival, works  # noqa: F401
from tests.serve.raw import connect, error_in, exchange, get, post, read_answer
from tests.waiting import until

FORM = form(('name="prompt"', b"x"), ('name="image"; filename="a.png"', png() + b" " * 1000))


def test_a_body_of_a_declared_size_beyond_the_limit_is_not_read(served: Served) -> None:
    for path, kind in ((RUN, "application/json"), (EDITS, "multipart/form-data; boundary=x")):
        head = post(path, b"", kind).replace(b"Content-Length: 0", f"Content-Length: {MAX_BODY + 1}".encode())
        answer = exchange(served.url, head)
        assert answer is not None and answer[0] == 413
        assert error_in(answer)["code"] == "too_large"
    put = post("/v1/sensenova/pictures/x", b"").replace(b"POST", b"PUT")
    answer = exchange(served.url, put.replace(b"Content-Length: 0", b"Content-Length: 99999999999"))
    assert error_in(answer)["code"] == "too_large"


def test_an_endless_body_in_chunks_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_BODY", 5_000_000)
    before = peak_memory()

    def endless() -> Iterator[bytes]:
        kind = b"application/json"
        yield b"POST " + RUN.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: " + kind
        yield b"\r\nTransfer-Encoding: chunked\r\n\r\n"
        for _ in range(2000):
            yield b"10000\r\n" + b" " * 65536 + b"\r\n"

    answer = exchange(served.url, endless())
    assert answer is None or (answer[0] == 413 and error_in(answer)["code"] == "too_large")
    assert peak_memory() - before < 60_000_000


def test_the_bodies_of_all_requests_are_limited_together(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_BODIES", 300_000)
    body = json.dumps({"request": "generate", "prompt": "x"}).encode() + b" " * 200_000
    held: list[int] = []
    take = connections.Limits.take

    def counted(self: connections.Limits, size: int) -> None:
        take(self, size)
        held.append(size)

    monkeypatch.setattr(connections.Limits, "take", counted)
    with closing(connect(served.url)) as slow:
        slow.sendall(post(RUN, body)[:-1])
        until(lambda: sum(held) >= len(body) - 1)
        answer = exchange(served.url, post(RUN, body))
        assert error_in(answer)["code"] == "too_many_bodies"
        assert answer is not None and answer[1]["retry-after"]
        assert works(served)  # a small body still fits
    until(lambda: served.client().post(RUN, content=body, headers={"Content-Type": "application/json"}).is_success)


def test_a_client_that_sends_nothing_is_disconnected(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.2)
    for start in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nA: "):
        with closing(connect(served.url)) as connection:
            connection.sendall(start)
            assert is_closed(connection)


def test_headers_that_never_end_are_disconnected(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1.0)
    for first in (b"", get("/health")):  # also after a complete request on the same connection
        with closing(connect(served.url)) as connection:
            connection.sendall(first)
            assert not first or read_answer(connection) is not None
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            with pytest.raises(OSError):
                for number in range(3000):
                    connection.sendall(b"A: %d\r\n" % number)
                    time.sleep(0.01)


def test_headers_have_a_largest_size(served: Served) -> None:
    answer = exchange(served.url, get("/health", *[f"A{n}: {'x' * 1000}" for n in range(200)]))
    assert answer is None or error_in(answer)["code"] == "invalid_http"


def test_an_idle_connection_stays_open_between_requests(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1.0)
    with closing(connect(served.url)) as connection:
        for pause in (1.2, 0):
            connection.sendall(get("/health"))
            answer = read_answer(connection)
            assert answer is not None and answer[0] == 200
            time.sleep(pause)


@pytest.mark.parametrize("limit", ["BODY_SECONDS", "UPLOAD_SECONDS"])
def test_a_body_that_never_ends_is_answered(served: Served, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(connections, limit, 0.3)
    for body, kind in ((b" " * 1000, "application/json"), (FORM, "multipart/form-data; boundary=x")):
        with closing(connect(served.url)) as connection:
            connection.sendall(post(EDITS, body, kind)[:-500])
            try:
                for _ in range(100 if limit == "UPLOAD_SECONDS" else 0):
                    connection.sendall(b" ")
                    time.sleep(0.01)
            except OSError:
                pass
            answer = read_answer(connection)
            assert answer is None or (answer[0] == 408 and error_in(answer)["code"] == "timeout")


def test_an_endless_body_that_nobody_reads_is_cut_off(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.3)
    with closing(connect(served.url)) as connection:
        connection.sendall(post("/nothing", b"").replace(b"Content-Length: 0", b"Content-Length: 99999999999"))
        answer = read_answer(connection)
        assert answer is not None and answer[0] == 404
        with pytest.raises(OSError):
            for _ in range(3000):
                connection.sendall(b" " * 1000)
                time.sleep(0.01)


def test_a_client_that_hangs_up_within_its_body_leaves_no_trace(served: Served) -> None:
    for body, kind in ((b" " * 1000, "application/json"), (FORM, "multipart/form-data; boundary=x")):
        with closing(connect(served.url)) as connection:
            connection.sendall(post(EDITS, body, kind)[:-500])
    until(lambda: not others(served))


def others(served: Served) -> int:
    """Return the number of connections with requests that have no answer."""
    open_ones: Any = served.server.server_state.connections
    return sum(1 for each in open_ones if each.cycle and not each.cycle.response_complete)


@pytest.mark.parametrize("close", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_nobody_reads_is_given_up(
    served: Served, monkeypatch: pytest.MonkeyPatch, stream: bool, close: bool
) -> None:
    monkeypatch.setattr(connections, "WRITE_SECONDS", 0.3)
    noise = Image.effect_noise((2048, 2048), 90).convert("RGB")
    served.engine.predict = lambda longer_side: noise
    monkeypatch.setattr("sensenova_cli.serve.scheduler.encode_png", lambda image, record: encode_noise(noise))
    body = json.dumps({"prompt": "x", "stream": stream, "partial_images": 3 * stream}).encode()
    with closing(socket.socket()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(connect(served.url).getpeername())
        connection.sendall(post(GENERATIONS, body, "application/json", *["Connection: close"] * close))
        until(lambda: others(served) == 1)
        until(lambda: not others(served))
        until(lambda: not served.server.server_state.connections)
        until(lambda: served.service.scheduler.running is None)


def encode_noise(noise: Image.Image) -> bytes:
    """Return a large file quickly."""
    buffer = io.BytesIO()
    noise.save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def test_a_slow_reader_gets_the_whole_answer(served: Served) -> None:
    file = png((600, 600), pnginfo=None, compress_level=0)
    name = served.service.pictures.add(file)
    with closing(connect(served.url)) as connection:
        connection.sendall(get(f"/v1/sensenova/pictures/{name}", "Connection: close"))
        received = b""
        while part := connection.recv(20_000):
            received += part
            time.sleep(0.005)
    assert received.endswith(file)


def test_connections_have_a_largest_number(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 5)
    held = [connect(served.url) for _ in range(12)]
    try:
        until(lambda: len(served.server.server_state.connections) <= 5)
        assert sum(1 for each in held if is_closed(each, 0.2)) >= 7
    finally:
        for each in held:
            each.close()
    until(lambda: not served.server.server_state.connections)


def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    with closing(connect(served.url)) as connection:
        connection.sendall(get("/health") + get("/v1/models") + get("/nothing") + get("/health", "Connection: close"))
        received = b""
        while part := connection.recv(65536):
            received += part
    assert [int(each[:3]) for each in received.split(b"HTTP/1.1 ")[1:]] == [200, 200, 404, 200]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500,
        b"\0" * 1000,
        b"GET\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nA: \0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST " + RUN.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_bytes_that_are_not_http(served: Served, garbage: bytes) -> None:
    answer = exchange(served.url, garbage)
    if answer is not None:
        assert 400 <= answer[0] < 500
        error_in(answer)


def test_garbage_behind_a_running_request_is_no_answer_to_it(served: Served) -> None:
    served.gate.clear()
    with closing(connect(served.url)) as connection:
        connection.sendall(post(GENERATIONS, b'{"prompt": "x"}') + b"\0\0\0\r\n\r\n")
        until(lambda: served.service.scheduler.running is not None)
        served.gate.set()
        answer = read_answer(connection)
        assert answer is None or answer[0] == 200


def test_odd_but_valid_requests(served: Served) -> None:
    for request, status in (
        (get("/health", "Upgrade: websocket", "Connection: Upgrade"), 200),
        (get("/health", version="1.0"), 200),
        (get("http://evil.example/v1/models"), 404),
        (get("/%2e%2e/%2e%2e/etc/passwd"), 404),
        (get("/health").replace(b"GET", b"HEAD"), 200),
        (get("/health").replace(b"GET", b"TRACE"), 405),
        (get("/v1/images/generations"), 405),
        (post("/health", b"{}"), 405),
        (post("/nothing", b"x" * 1_000_000), 404),
    ):
        with closing(connect(served.url)) as connection:
            connection.sendall(request)
            head = connection.recv(65536).split(b"\r\n")[0]
            assert int(head.split()[1]) == status, request[:60]


def is_closed(connection: socket.socket, seconds: float = 10) -> bool:
    """Return whether the server closes a connection within a time."""
    connection.settimeout(seconds)
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False
