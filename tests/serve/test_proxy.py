"""A reverse proxy on the same machine, which says by headers how its clients connect."""

import json
import socket
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from sensenova_cli.serve import connections
from sensenova_cli.serve.guard import Guard
from tests.serve.conftest import Serve, Served
from tests.waiting import until

FORWARDED = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https", "Host": "pictures.example.org"}


def test_addresses_of_pictures_are_those_of_the_proxy(serve: Serve) -> None:
    served = serve(Guard(hosts=("pictures.example.org",)))
    body = {"prompt": "x", "response_format": "url"}
    with served.client(headers=FORWARDED) as client:
        (picture,) = client.post("/v1/images/generations", json=body).json()["data"]
        assert picture["url"].startswith("https://pictures.example.org/v1/sensenova/pictures/")
        assert client.get(urlsplit(picture["url"]).path).content.startswith(b"\x89PNG")


def test_an_answer_that_the_proxy_does_not_read_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "WRITE_SECONDS", 0.3)
    name = served.service.pictures.add(b"\x89PNG\r\n\x1a\n" + bytes(30_000_000))
    address = urlsplit(served.url)
    head = f"GET /v1/sensenova/pictures/{name} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n"
    with closing(socket.create_connection((address.hostname or "", address.port or 0))) as connection:
        connection.sendall(head.encode())
        until(lambda: bool(served.server.server_state.connections))
        until(lambda: not served.server.server_state.connections)
    assert json.loads(served.client().get("/health").text) == {"status": "ok"}
