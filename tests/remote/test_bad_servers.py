"""Servers that cannot be used, and how the user learns why: what is wrong, where, and what to do next."""

import json
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from model.remote import http
from sensenova_cli.serve.guard import Guard
from tests.cli.harness import Outcome, Program
from tests.remote.bad_servers import Handler, answering, certificate, listening, read_request, routing
from tests.serve.conftest import Serve, home, serve  # noqa: F401  # fixtures
from tests.waiting import PATIENCE, until

MODELS = '{"data": [{"id": "demo", "owned_by": "sensenova"}]}'
READY = {"/v1/models": answering("200 OK", MODELS), "/health": answering("200 OK", '{"status": "ok"}')}
INFO = {
    "version": 1,
    "model": "demo",
    "description": "x",
    "loaded": {},
    "trained_sizes": ["64x64"],
    "settings": {},
    "loras": [],
}


@pytest.fixture(autouse=True)
def _empty(home: Path) -> None:  # noqa: F811
    """No settings of the user."""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait only a moment for an answer: only for servers that never answer, because others may be slow."""
    monkeypatch.setattr(http, "ASK_SECONDS", 0.3)


def draw(server: str, *words: str) -> Outcome:
    """Ask a server for a picture."""
    return Program()("generate", "a cat", "-o", "cat.png", "--server", server, *words)


def expect(outcome: Outcome, code: int, what: str, hint: str) -> None:
    """Check exit code and message, that there is no picture, and that nothing else went wrong."""
    assert outcome.code == code, outcome.stderr
    error, *hints = outcome.stderr.strip().splitlines()[-2:]
    assert error.startswith("error: ") and what in error, outcome.stderr
    assert hints and hints[0].startswith("hint: ") and hint in hints[0], outcome.stderr
    assert "unexpected" not in outcome.stderr
    assert outcome.stdout == ""
    assert not Path("cat.png").exists()


def against(handler: Handler, *words: str, scheme: str = "http") -> tuple[str, Outcome]:
    """Run a command against a bad server; return its address and the outcome."""
    with listening(handler) as port:
        url = f"{scheme}://127.0.0.1:{port}"
        return url, draw(url, *words)


def test_nobody_listens() -> None:
    expect(draw("127.0.0.1:1"), 1, "http://127.0.0.1:1 cannot be reached: Connection refused", "check the address")


def test_an_unknown_name() -> None:
    expect(draw("http://gpu-box.invalid:8642"), 1, "http://gpu-box.invalid:8642 cannot be reached", "check the address")


@pytest.mark.parametrize(
    "server", ["http://127.0.0.1:99999", "http://127.0.0.1:port", "ftp://127.0.0.1", "http://[::1"]
)
def test_no_address(server: str) -> None:
    expect(draw(server), 2, f"{server} is not an address", "http://gpu-box:8642")


@pytest.mark.parametrize("server", ["http://box?x=1", "two words", ""])
def test_no_address_in_the_setting(server: str) -> None:
    outcome = draw(server)
    assert outcome.code == 2
    assert "--server" in outcome.stderr


def test_a_password_in_the_address_is_not_shown() -> None:
    outcome = draw("http://user:secret@box")
    expect(outcome, 2, "the address of the server contains a name or a password", "SENSENOVA_SERVER_KEY")
    assert "secret" not in outcome.stderr


def test_an_ordinary_web_page() -> None:
    url, outcome = against(answering("200 OK", "<html><body>Hello</body></html>"))
    expect(outcome, 1, f"{url} answers, but it is not a server for these models", "check the address and the port")


def test_a_page_that_does_not_exist() -> None:
    url, outcome = against(answering("404 Not Found", "<h1>Not Found</h1>"))
    expect(outcome, 1, f"{url} is not a server for these models: it answers with error 404", "the port")


@pytest.mark.parametrize(
    "body",
    ["[]", "{}", "null", '{"data": []}', '{"data": [1]}', '{"data": {"a": 1}}', '{"data": [{"id": "x"}]}', "[" * 9000],
)
def test_json_of_something_else(body: str) -> None:
    url, outcome = against(answering("200 OK", body))
    expect(outcome, 1, f"{url}", "check the address and the port")
    assert "not a server for these models" in outcome.stderr


def test_a_server_of_other_models() -> None:
    url, outcome = against(answering("200 OK", '{"data": [{"id": "llama", "owned_by": "llamacpp"}]}'))
    expect(outcome, 1, f"{url} is a server of llamacpp", "vLLM-Omni")


@pytest.mark.parametrize("content", [b"220 mail server\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x46", bytes(50_000)])
def test_garbage(content: bytes) -> None:
    def handle(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(content)

    url, outcome = against(handle)
    expect(outcome, 1, f"{url} does not speak HTTP", "an address with TLS begins with https://")


def test_a_connection_that_is_closed_at_once() -> None:
    url, outcome = against(lambda connection: None)
    expect(outcome, 1, url, "check the address")


@pytest.mark.usefixtures("impatient")
def test_a_port_that_says_nothing() -> None:
    url, outcome = against(lambda connection: time.sleep(PATIENCE))
    expect(outcome, 1, f"{url} accepts connections, but does not answer", "https://")


@pytest.mark.usefixtures("impatient")
def test_a_server_that_never_ends_its_answer() -> None:
    def drip(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n\r\n")
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    url, outcome = against(drip)
    expect(outcome, 1, f"{url} accepts connections, but does not answer", "the port")


def test_a_server_that_sends_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_SHORT_ANSWER", 100_000)
    monkeypatch.setattr(http.Connection.ask, "__kwdefaults__", {"seconds": None, "most": 100_000})

    def flood(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(bytes(65536))

    url, outcome = against(flood)
    expect(outcome, 1, f"{url} sends too much", "check the address and the port")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    url, outcome = against(answering(f"{status} Moved", "", Location="http://example.org/v1/models"))
    expect(outcome, 2, f"{url} redirects to http://example.org/v1/models", "the address of the server itself")


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_proxy_whose_server_is_away(status: int) -> None:
    url, outcome = against(answering(f"{status} Bad Gateway", "<html>Bad Gateway</html>"))
    assert outcome.code == 1
    assert f"the server at {url}: error {status}" in outcome.stderr


# TLS


@pytest.fixture
def openssl() -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")


@pytest.mark.usefixtures("openssl")
def test_an_unknown_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = answering("404 Not Found", "")
    with listening(handler, certificate(tmp_path)) as port:
        url = f"https://127.0.0.1:{port}"
        expect(draw(url), 1, f"the certificate of {url} is not trusted: self-signed certificate", "SSL_CERT_FILE")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        expect(draw(url), 1, f"{url} is not a server for these models", "check the address")  # the hint helped


@pytest.mark.usefixtures("openssl")
def test_a_certificate_of_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(answering("404 Not Found", ""), certificate(tmp_path, "DNS:gpu-box")) as port:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        url = f"https://127.0.0.1:{port}"
        expect(draw(url), 1, f"the certificate of {url} is for another name", "use the name in the certificate")


@pytest.mark.usefixtures("openssl")
def test_http_to_a_server_with_tls(tmp_path: Path) -> None:
    with listening(answering("200 OK", ""), certificate(tmp_path)) as port:
        expect(draw(f"http://127.0.0.1:{port}"), 1, f"http://127.0.0.1:{port}", "https://")


def test_https_to_a_server_without_tls(serve: Serve) -> None:  # noqa: F811
    url = serve().url.replace("http:", "https:")
    expect(draw(url), 1, f"{url} does not speak TLS", "write http:// instead of https://")


# Keys


def test_a_missing_key(serve: Serve) -> None:  # noqa: F811
    served = serve(Guard(key="secret"))
    expect(draw(served.url), 2, f"the server at {served.url} needs a key", "SENSENOVA_SERVER_KEY")


def test_a_wrong_key(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    served = serve(Guard(key="secret"))
    monkeypatch.setenv("SENSENOVA_SERVER_KEY", "wrong")
    expect(draw(served.url), 2, f"the server at {served.url} refuses the key", "--server-key-file")


@pytest.mark.parametrize("where", ["file", "variable"])
def test_the_right_key(serve: Serve, monkeypatch: pytest.MonkeyPatch, where: str) -> None:  # noqa: F811
    served = serve(Guard(key="secret"))
    words: tuple[str, ...] = ()
    if where == "variable":
        monkeypatch.setenv("SENSENOVA_SERVER_KEY", "secret")
    else:
        Path("key").write_text("secret\n")
        words = ("--server-key-file", "key")
    assert draw(served.url, *words).code == 0


# Versions, models, LoRAs, flags


def described(**changes: Any) -> Handler:
    """Return the handler of a server that describes itself in another way."""
    info = {name: value for name, value in {**INFO, **changes}.items() if value is not None}
    return routing({**READY, "/v1/sensenova/info": answering("200 OK", json.dumps(info))})


def test_a_newer_server() -> None:
    url, outcome = against(described(version=2))
    expect(outcome, 1, f"the server at {url} speaks version 2 of the protocol, and this program version 1", "update")
    assert "update this program" in outcome.stderr


@pytest.mark.parametrize("version", [None, 0, "x"])
def test_an_older_server(version: Any) -> None:
    url, outcome = against(described(version=version))
    expect(outcome, 1, f"the server at {url} speaks", "update the server")


@pytest.mark.parametrize(
    "changes",
    [
        {"loaded": None},
        {"loaded": 3},
        {"loaded": {"dtype": "int3"}},
        {"trained_sizes": None},
        {"trained_sizes": [3]},
        {"trained_sizes": []},
        {"settings": 3},
        {"settings": {"num_steps": "many"}},
        {"model": None},
    ],
    ids=str,
)
def test_a_server_that_does_not_describe_its_model(changes: dict[str, Any]) -> None:
    _, outcome = against(described(**changes))
    assert outcome.code in (1, 2)
    assert outcome.stderr.startswith("error: ")
    assert "unexpected" not in outcome.stderr


def test_another_model_than_the_wanted_one(serve: Serve) -> None:  # noqa: F811
    served = serve()
    expect(draw(served.url, "--model", "SenseNova/SenseNova-U1-8B-MoT"), 2, "has the model demo, not", "--model")


def test_the_variable_of_a_local_model_does_not_matter(serve: Serve) -> None:  # noqa: F811
    """`home` sets SENSENOVA_MODEL to a folder here."""
    assert draw(serve().url).code == 0


def test_an_unknown_lora(serve: Serve) -> None:  # noqa: F811
    served = serve()
    expect(draw(served.url, "--lora", "pixel"), 2, f"the server at {served.url} has no LoRA pixel", "its LoRAs: none")


def test_a_lora_by_its_name(serve: Serve) -> None:  # noqa: F811
    Path("pixel.safetensors").touch()
    served = serve(loras="pixel=./pixel.safetensors")
    assert draw(served.url, "--lora", "pixel:0.5").code == 0
    assert [str(each) for each in served.engine.loras] == ["./pixel.safetensors:0.5"]


def test_two_loras(serve: Serve) -> None:  # noqa: F811
    served = serve(loras="pixel=./pixel.safetensors, fast=./fast.safetensors")
    expect(draw(served.url, "--lora", "pixel", "--lora", "fast"), 2, "only one LoRA for a request", "pixel, fast")


def test_no_lora_although_the_server_has_merged_one(serve: Serve) -> None:  # noqa: F811
    Path("pixel.safetensors").touch()
    served = serve(loras="pixel=./pixel.safetensors")
    assert draw(served.url, "--lora", "pixel").code == 0
    assert Program()("generate", "a dog", "--server", served.url, "--lora", "off").code == 0
    assert served.engine.loras == ()


@pytest.mark.parametrize(
    "words",
    [
        ("--device", "cuda"),
        ("--dtype", "float16"),
        ("--offload", "layers"),
        ("--gpu-memory", "8GiB"),
        ("--quantization", "fp8"),
        ("--gpus", "2"),
        ("--enable-cpu-offload",),
        ("--check-weights",),
        ("--enforce-eager",),
    ],
    ids=lambda words: words[0],
)
def test_flags_about_loading_a_model_here(serve: Serve, words: tuple[str, ...]) -> None:  # noqa: F811
    served = serve()
    outcome = draw(served.url, *words)
    expect(outcome, 2, "is about loading a model here", "--server off")
    assert served.engine.requests == []


def test_a_limit_of_the_server(serve: Serve) -> None:  # noqa: F811
    served = serve(max_steps=10)
    outcome = draw(served.url, "--num-steps", "11")
    assert outcome.code == 2
    assert "this server allows 10 at most" in outcome.stderr


# Loading and waiting


def test_a_loading_server_is_awaited(serve: Serve) -> None:  # noqa: F811
    ready = threading.Event()
    engines: list[Any] = []

    def open_model(on_progress: Any) -> Any:
        assert ready.wait(PATIENCE)
        return engines[0]

    served = serve(open_model=open_model)
    engines.append(served.engine)
    threading.Timer(1.0, ready.set).start()
    outcome = draw(served.url)
    assert (outcome.code, outcome.stdout) == (0, "cat.png\n"), outcome.stderr


def test_info_does_not_wait_for_a_loading_server(serve: Serve) -> None:  # noqa: F811
    ended = threading.Event()

    def open_model(on_progress: Any) -> Any:
        assert ended.wait(PATIENCE)
        raise RuntimeError

    served = serve(open_model=open_model)
    outcome = Program()("info", "--server", served.url)
    ended.set()
    assert outcome.code == 0
    assert "status: loading" in outcome.stdout


def test_a_server_without_a_model() -> None:
    state = answering("503 Unavailable", '{"status": "failed"}')
    url, outcome = against(routing({**READY, "/health": state}))
    expect(outcome, 1, f"the server at {url} cannot answer: its state is failed", "look at its log")


def test_a_full_queue_is_awaited(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("sensenova_cli.serve.errors.RETRY_SECONDS", 1)
    served = serve(max_queue=0)
    served.gate.clear()
    outcomes: list[Outcome] = []
    body = {"request": "generate", "prompt": "a dog", "settings": {"num_steps": 1}}
    running = served.client()
    with running.stream("POST", "/v1/sensenova/run", json=body) as first:
        until(lambda: len(served.engine.requests) == 1)
        mine = threading.Thread(target=lambda: outcomes.append(draw(served.url)))
        mine.start()
        until(lambda: served.metric('requests_total{end="refused"}') >= 1)
        served.gate.set()
        first.read()
        mine.join(PATIENCE)
    assert outcomes[0].code == 0, outcomes[0].stderr
    assert "the server has a full queue; trying again every 1 s" in outcomes[0].stderr
