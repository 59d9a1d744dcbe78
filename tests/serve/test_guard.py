"""Host names, origins, keys and content types: what a web page or another machine cannot do."""

import json
import secrets

import pytest

from sensenova_cli.serve import guard
from sensenova_cli.serve.app import routes
from sensenova_cli.serve.guard import Guard
from tests.serve.conftest import Serve, Served
from tests.serve.raw import error_in, exchange, get, post

KEY = "abc123"
PROMPT = json.dumps({"request": "generate", "prompt": "a cat"}).encode()


def status(served: Served, request: bytes) -> int | None:
    """Return the status of the answer to a request."""
    answer = exchange(served.url, request)
    return answer[0] if answer else None


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8642",
        "192.168.1.7:80",
        "[::1]",
        "[::1]:8642",
        "[FE80::1]:1",
        "localhost",
        "LOCALHOST:8642",
        "u1.localhost",
        "gpu-box.local",
        "Pictures.Example.org:443",
    ],
)
def test_hosts_that_only_the_operator_can_name(serve: Serve, host: str) -> None:
    served = serve(Guard(hosts=frozenset({"pictures.example.org"})))
    assert status(served, get("/v1/models", host=host)) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8642",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "notlocalhost",
        "localhost.",
        "",
        ":8642",
        "127.0.0.1:",
        "127.0.0.1:8642:1",
        "127.0.0.1:\xb2",
        "2130706433",
        "0x7f.1",
        "::1",
        "[::1",
        "[::1]evil",
        "[::1]:",
        "[evil.example]",
        "user@127.0.0.1",
        "127.0.0.1/evil",
        "a b.local",
        "pictures.example.org",
    ],
)
def test_other_hosts_are_refused(served: Served, host: str) -> None:
    for path in ("/v1/models", "/health", "/"):
        answer = exchange(served.url, get(path, host=host))
        assert answer is not None and answer[0] == 403
        assert error_in(answer)["code"] == "host_refused"


def test_requests_with_no_host_or_two_are_refused(served: Served) -> None:
    two = get("/health", "Host: evil.example", host="127.0.0.1")
    for request in (two, get("/health", host=None), get("/health", host=None, version="1.0")):
        answer = exchange(served.url, request)
        assert error_in(answer)["code"] in ("invalid_http", "host_refused")
    assert status(served, get("/health", version="1.0")) == 200


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "",
        "http://127.0.0.1:3000",
        "http://127.0.0.1",
        "http://localhost:8642",
        "https://app.example.org.evil.example",
        "https://app.example.org:444",
        "http://app.example.org",
        "http://127.0.0.1:8642\r\nOrigin: https://evil.example",
    ],
)
def test_pages_of_other_sites_are_refused(serve: Serve, origin: str) -> None:
    served = serve(Guard(origins=frozenset({"https://app.example.org"})))
    host, header = "127.0.0.1:8642", f"Origin: {origin}"
    run = post("/v1/sensenova/run", PROMPT, "application/json", header, host=host)
    preflight = get("/v1/sensenova/run", header, host=host).replace(b"GET", b"OPTIONS", 1)
    for request in (run, get("/v1/models", header, host=host), preflight):
        answer = exchange(served.url, request)
        assert answer is not None and answer[0] == 403
        assert error_in(answer)["code"] == "origin_refused"
        assert not [name for name in answer[1] if name.startswith("access-control")]
    assert not served.engine.requests


def test_the_own_page_may_use_the_server(served: Served) -> None:
    for origin in ("http://127.0.0.1:8642", "https://127.0.0.1:8642"):  # a proxy may add TLS
        answer = exchange(served.url, get("/v1/models", f"Origin: {origin}", host="127.0.0.1:8642"))
        assert answer is not None and answer[0] == 200
        assert not [name for name in answer[1] if name.startswith("access-control")]


def test_an_allowed_origin_may_use_the_server_and_read_the_answer(serve: Serve) -> None:
    served = serve(Guard(key=KEY, origins=frozenset({"https://app.example.org"})))
    origin = {"Origin": "https://app.example.org"}
    asked = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-stainless-os"}
    preflight = served.client().options("/v1/images/generations", headers=asked)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "https://app.example.org"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert preflight.headers["access-control-allow-headers"] == "Authorization, *"
    assert "access-control-allow-credentials" not in preflight.headers
    for key, expected in ((KEY, 200), ("wrong", 401)):
        answer = served.client().get("/v1/models", headers={**origin, "Authorization": f"Bearer {key}"})
        assert answer.status_code == expected
        assert answer.headers["access-control-allow-origin"] == "https://app.example.org"
        assert answer.headers["vary"] == "Origin"


def test_options_without_an_origin_is_answered(served: Served) -> None:
    assert served.client().options("/v1/images/generations").status_code == 204


def test_every_address_needs_the_key(serve: Serve) -> None:
    served = serve(Guard(key=KEY))
    client = served.client()
    wrong = [{}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": "Bearer"}, {"Authorization": KEY}]
    wrong += [{"x-api-key": "wrong"}, {"Authorization": f"Basic {KEY}"}, {"Authorization": f"Bearer {KEY[:-1]}"}]
    tried = set()
    for route in routes(served.service):
        for method in route.methods or ():
            path = route.path.replace("{name:path}", "demo").replace("{", "").replace("}", "")
            tried.add(path)
            if path in ("/", "/health"):
                continue
            for headers in wrong:
                answer = client.request(method, path, headers=headers)
                assert answer.status_code == 401, (method, path, headers)
                assert answer.headers["www-authenticate"] == "Bearer"
    assert {"/metrics", "/v1/models", "/v1/sensenova/run", "/v1/chat/completions"} <= tried
    for odd in (get("/v1/models", "Authorization: Bearer \xe9"), get("//health"), get("/health/../v1/models")):
        assert status(served, odd) == 401
    assert client.get("/no-such-address").status_code == 401  # nobody learns what exists
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/").status_code == 200
    for right in ({"Authorization": f"Bearer {KEY}"}, {"Authorization": f"bearer  {KEY}"}, {"X-Api-Key": KEY}):
        assert client.get("/v1/models", headers=right).status_code == 200


def test_keys_are_compared_in_constant_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(given: bytes, key: bytes) -> bool:
        compared.append((given, key))
        return secrets.compare_digest(given, key)

    served = serve(Guard(key=KEY))
    monkeypatch.setattr(guard, "secrets", type("Secrets", (), {"compare_digest": staticmethod(compare)}))
    assert served.client().get("/v1/models", headers={"Authorization": "Bearer guess"}).status_code == 401
    assert compared == [(b"guess", KEY.encode())]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "text/plain; application/json", ""]
)
def test_content_types_that_pages_can_send_unasked_are_refused(served: Served, kind: str) -> None:
    paths = [route.path for route in routes(served.service) if "POST" in (route.methods or ())]
    assert len(paths) > 4
    for path in paths:
        if path.endswith(("/interrupt", "/skip")):
            continue
        answer = exchange(served.url, post(path, PROMPT, kind))
        assert answer is not None and answer[0] == 415, path
        assert error_in(answer)["code"] == "wrong_content_type"
    assert not served.engine.requests


def test_answers_carry_the_headers_that_browsers_obey(served: Served) -> None:
    for path in ("/", "/health", "/v1/models", "/nothing"):
        headers = served.client().get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in headers
