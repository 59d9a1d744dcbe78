"""`sensenova serve` as an operator sees it: start, signals, mistakes in its settings, and what it prints."""

import base64
import io
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from model import CheckpointError, DeviceMemoryError
from tests.cli.conftest import home, program  # noqa: F401  # fixtures
from tests.cli.harness import REPOSITORY, Outcome, Program
from tests.serve.conftest import Process, serve_process
from tests.serve.test_native import events
from tests.waiting import PATIENCE, until

GENERATIONS = "/v1/images/generations"
CAT = {"prompt": "a secret cat", "num_steps": 2}


def free_port() -> int:
    """Return a port that is free now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serving(
    program: Program,  # noqa: F811
    *words: str,
    use: Callable[[httpx2.Client], None] = lambda client: None,
    number: int = signal.SIGTERM,
) -> Outcome:
    """Run `serve` on the fake engine, use it when it is ready, and end it with a signal."""
    port = free_port()
    done = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE)
        try:
            until(lambda: done.is_set() or is_ready(client))
            if not done.is_set():
                use(client)
        except BaseException as error:
            failures.append(error)
        if not done.is_set():
            os.kill(os.getpid(), number)

    user = threading.Thread(target=run)
    user.start()
    outcome = program("serve", "--port", str(port), *words)
    done.set()
    user.join()
    if failures:
        raise failures[0]
    return outcome


def is_ready(client: httpx2.Client) -> bool:
    """Return whether a server accepts requests."""
    try:
        return client.get("/health").status_code == 200
    except httpx2.TransportError:
        return False


def fails(outcome: Outcome, code: int, *texts: str) -> None:
    """Check that a command has failed with a message and without a traceback."""
    assert outcome.code == code, outcome.stderr
    for text in texts:
        assert text in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_one_line_says_where_how_guarded_and_what_to_type(program: Program) -> None:  # noqa: F811
    outcome = serving(program)
    assert outcome.code == 0
    (line,) = [each for each in outcome.stderr.splitlines() if each.startswith("serving ")]
    assert re.match(
        r"serving checkpoint at http://127\.0\.0\.1:\d+ for this machine only, without a key; try: curl ", line
    )
    assert outcome.stdout == "" and program.engines[0].closed


def test_the_curl_command_works(tmp_path: Path, program: Program) -> None:  # noqa: F811
    folder = tmp_path / "a folder"
    folder.mkdir()
    key = folder / "key"
    key.write_text("abc123\n")
    key.chmod(0o600)
    answers: list[str] = []

    def use(client: httpx2.Client) -> None:
        port = client.base_url.port
        text = command_line(f"http://127.0.0.1:{port}")
        answers.append(subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True).stdout)

    def command_line(url: str) -> str:
        from sensenova_cli.serve.start import Announcement

        return Announcement(True, str(key), False).text("demo", url).partition("try: ")[2]

    outcome = serving(program, "--api-key-file", str(key), "--host", "0.0.0.0", use=use)
    assert outcome.code == 0 and command_line("http://127.0.0.1:")[:30] in outcome.stderr
    assert json.loads(answers[0])["data"][0]["url"].startswith("http://127.0.0.1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_ends_an_idle_server(program: Program, number: int) -> None:  # noqa: F811
    assert serving(program, number=number).code == 0


def test_nohup_keeps_its_effect(program: Program) -> None:  # noqa: F811
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def use(client: httpx2.Client) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        assert client.post(GENERATIONS, json=CAT).status_code == 200

    try:
        assert serving(program, use=use).code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_log_has_no_prompts_and_no_pictures(program: Program) -> None:  # noqa: F811
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

    def use(client: httpx2.Client) -> None:
        client.post(GENERATIONS, json=CAT)
        client.post("/v1/images/edits", json={**CAT, "image": url})
        client.post("/v1/images/edits", json={**CAT, "image": url[:60]})
        client.post(GENERATIONS, json={**CAT, "num_steps": 0})
        chat = [
            {"role": "user", "content": [{"type": "text", "text": "secret"}, {"type": "image_url", "image_url": url}]}
        ]
        client.post("/v1/chat/completions", json={"messages": chat})
        client.get("/v1/models/secret")
        client.get("/secret?secret=1", headers={"Origin": "https://secret.example"})

    outcome = serving(program, use=use)
    assert outcome.code == 0
    assert "secret" not in outcome.stderr and url[30:60] not in outcome.stderr
    assert len(re.findall(r"^\d\d:\d\d:\d\d req-\w+ generate \S+, 2 steps: done after", outcome.stderr, re.M)) == 1
    refused = re.findall(r"^\d\d:\d\d:\d\d (.+: refused, .+)$", outcome.stderr, re.M)
    assert refused[:2] == [
        "POST /v1/images/edits: refused, 400 invalid_request",
        "POST /v1/images/generations: refused, 400 invalid_request",
    ]
    assert "GET /v1/models/{name:path}: refused, 404 model_not_found" in refused
    assert "GET (not checked further): refused, 403 origin_refused" in refused
    quiet = serving(program, "--quiet", use=use)
    assert "req-" not in quiet.stderr and "serving " in quiet.stderr


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (CheckpointError("model.safetensors is damaged", "download it again"), 3, "download it again"),
        (DeviceMemoryError("the model needs 35 GB", "use `offload`"), 4, "needs 35 GB"),
        (RuntimeError("odd"), 1, "unexpected RuntimeError: odd"),
    ],
)
def test_a_model_that_cannot_be_loaded(program: Program, error: BaseException, code: int, text: str) -> None:  # noqa: F811
    program.load_error = error
    fails(serving(program), code, text)


def test_a_port_that_is_taken(program: Program) -> None:  # noqa: F811
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        fails(program("serve", "--port", str(port)), 2, f"cannot listen on 127.0.0.1:{port}", "--port")
    assert not program.engines


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["--loras", "x=nofile"], ["--loras x=nofile: there is no such file"]),
        (["--host", "0.0.0.0"], ["there is no key", "--api-key-file", "--no-key"]),
        (["--host", "::"], ["there is no key"]),
        (["--host", "no.such.host.invalid", "--no-key"], ["cannot listen on no.such.host.invalid", "127.0.0.1"]),
        (["--host", "203.0.113.1", "--no-key"], ["cannot listen on 203.0.113.1"]),
        (["--host", "..", "--no-key"], ["cannot listen on .."]),
        (["--host", "a" * 300, "--no-key"], ["cannot listen on"]),
        (["--port", "65536"], ["from 0 to 65535"]),
        (["--port", "abc"], ["--port abc"]),
        (["--api-key-file", "missing"], ["missing cannot be read: No such file", "openssl"]),
        (["--api-key-file", "."], [". cannot be read"]),
        (["--api-key-file", "empty"], ["empty contains no usable key"]),
        (["--api-key-file", "binary"], ["binary cannot be read: it is not text"]),
        (["--api-key-file", "words"], ["words contains no usable key"]),
        (["--api-key-file", "good", "--no-key"], ["contradict"]),
        (["--keep-memory", "much"], ["much"]),
        (["--max-queue", "-1"], ["--max-queue"]),
        (["--loras", "pixel"], ["pixel=./pixel.safetensors"]),
        (["--cors-origin", "*"], ["--cors-origin *", "https://app.example.org"]),
        (["--cors-origin", "app.example.org"], ["--cors-origin app.example.org"]),
        (["--allow-host", "https://pictures.example.org"], ["--allow-host https://pictures.example.org"]),
        (["--allow-host", "pictures.example.org:443"], ["--allow-host"]),
        (["--listen", "1"], ["--listen"]),
    ],
)
def test_mistakes_on_the_command_line(program: Program, words: list[str], texts: list[str]) -> None:  # noqa: F811
    Path("empty").write_text(" \n")
    Path("binary").write_bytes(b"\xff\xfe\x00")
    Path("words").write_text("two words")
    Path("good").write_text("abc123")
    fails(program("serve", *words), 2, *texts)
    assert not program.engines


def test_everybody_may_use_a_server_if_the_operator_says_so(program: Program) -> None:  # noqa: F811
    outcome = serving(program, "--host", "0.0.0.0", "--no-key", use=lambda client: None)
    assert outcome.code == 0
    assert "for all machines that can connect, WITHOUT A KEY" in outcome.stderr


def test_keys_from_a_file_and_from_the_environment(
    program: Program,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = Path("key")
    key.write_text("abc123\n")

    def use(client: httpx2.Client) -> None:
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers={"Authorization": "Bearer abc123"}).status_code == 200

    key.chmod(0o644)
    outcome = serving(program, "--api-key-file", "key", use=use)
    assert "other users of this machine can read the key file: chmod 600 key" in outcome.stderr
    key.chmod(stat.S_IRUSR)
    outcome = serving(program, "--api-key-file", "key", use=use)
    assert "other users" not in outcome.stderr and "with a key" in outcome.stderr
    monkeypatch.setenv("SENSENOVA_SERVE_API_KEY", "abc123")
    outcome = serving(program, use=use)
    assert "$SENSENOVA_SERVE_API_KEY" in outcome.stderr and "abc123" not in outcome.stderr


def test_settings_in_a_file(program: Program) -> None:  # noqa: F811
    Path("sensenova.toml").write_text('num_steps = 3\n[serve]\nserved_name = "u1"\nmax_steps = 4\nui = false\n')

    def use(client: httpx2.Client) -> None:
        assert client.get("/v1/models").json()["data"][0]["id"] == "u1"
        assert client.get("/").status_code == 404
        answer = client.post(GENERATIONS, json={"prompt": "x"})
        assert answer.json()["data"][0]["settings"]["num_steps"] == 3
        assert client.post(GENERATIONS, json={"prompt": "x", "num_steps": 5}).status_code == 400

    assert serving(program, use=use).code == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[serve]\nport = 70000\n", "sensenova.toml:2:1: port = 70000: must be a whole number from 0 to 65535"),
        ('[serve]\nport = "80"\n', "sensenova.toml:2:1: "),
        ("[serve]\nprot = 80\n", "sensenova.toml:2:1: unknown setting prot"),
        ("port = 80\n", "sensenova.toml:1:1: "),
        ("[serve]\nnum_steps = 3\n", "sensenova.toml:2:1: "),
        ('serve = "x"\n', "sensenova.toml:1:1: "),
        ("[serve\n", "sensenova.toml:1:"),
    ],
)
def test_mistakes_in_a_file(program: Program, text: str, message: str) -> None:  # noqa: F811
    Path("sensenova.toml").write_text(text)
    fails(program("serve"), 2, message)


def test_mistakes_in_the_environment(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("SENSENOVA_SERVE_PORT", "abc")
    fails(program("serve"), 2, "SENSENOVA_SERVE_PORT=abc", "a whole number from 0 to 65535")
    monkeypatch.setenv("SENSENOVA_SERVE_PORT", "0")
    monkeypatch.setenv("SENSENOVA_SERVE_API_KEY", "two words")
    fails(program("serve"), 2, "SENSENOVA_SERVE_API_KEY contains no usable key")


def test_missing_libraries(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name != "uvicorn" else object())
    fails(
        program("serve"),
        2,
        "serving needs starlette, python_multipart, which are not installed",
        "in the checkout, run: pip install '.[serve]'",
    )


# Real processes


@pytest.fixture
def slow_demo(tmp_path: Path) -> Iterator[Process]:
    """The demo in a process of its own, with one request that runs for a long time."""
    with serve_process(tmp_path) as process:
        yield process


def long_events(process: Process, steps: int) -> Iterator[dict[str, Any]]:
    """Yield the events of a request that takes seconds, from its first step."""
    settings = {"num_steps": steps, "size": "256x256", "seed": 1}
    found = events(process.client(), {"request": "generate", "prompt": "a cat", "settings": settings})
    assert any(each["event"] == "step" for each in found)
    return found


def test_sigterm_finishes_the_running_request(slow_demo: Process) -> None:
    found = long_events(slow_demo, 60)
    answers: list[httpx2.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(slow_demo.client().post(GENERATIONS, json=CAT)))
    waiting.start()
    until(lambda: "sensenova_requests_waiting 1" in slow_demo.client().get("/metrics").text)
    slow_demo.process.send_signal(signal.SIGTERM)
    waiting.join(PATIENCE)
    assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (503, "stopping")
    assert list(found)[-1]["event"] == "statistics"
    assert slow_demo.process.wait(PATIENCE) == 0
    printed = "".join(slow_demo.messages)
    assert "a second signal ends at once" in printed
    assert "Traceback" not in printed and "secret" not in printed


def test_a_second_signal_ends_at_once(slow_demo: Process) -> None:
    found = long_events(slow_demo, 200)
    slow_demo.process.send_signal(signal.SIGINT)
    until(lambda: any("a second signal" in line for line in slow_demo.messages))
    assert slow_demo.process.poll() is None
    slow_demo.process.send_signal(signal.SIGINT)
    assert slow_demo.process.wait(PATIENCE) == 130
    with pytest.raises(httpx2.TransportError):
        list(found)
    assert "Traceback" not in "".join(slow_demo.messages)


def test_sigterm_while_the_model_loads(tmp_path: Path) -> None:
    port = free_port()
    # The demo loads in a moment, so the loading of its engine is delayed.
    code = (
        "import sys, threading; import model.opening as e; original = e.open_engine\n"
        "e.open_engine = lambda *a, **k: (threading.Event().wait(600), original(*a, **k))[1]\n"
        "import model; model.open_engine = e.open_engine\n"
        "import runpy; runpy.run_module('sensenova_cli', run_name='__main__')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", "--port", str(port)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "SENSENOVA_CONFIG_DIR": str(tmp_path)},
    )
    client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False)

    def is_loading() -> bool:
        try:
            return client.get("/health").json()["status"] == "loading"
        except httpx2.TransportError:
            return False

    try:
        until(is_loading)
        process.send_signal(signal.SIGTERM)
        _, printed = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "Traceback" not in printed and "serving" not in printed


def test_pictures_name_no_folder_of_the_server(tmp_path: Path, tiny_checkpoint: Path) -> None:
    model = tmp_path / "secret folder" / "tiny"
    model.parent.mkdir()
    model.symlink_to(tiny_checkpoint)
    with serve_process(tmp_path, "--model", str(model), "--no-warmup") as process:
        client = process.client()
        body = {"prompt": "a cat", "num_steps": 1, "size": "64x64"}
        answer = client.post(GENERATIONS, json=body)
        assert answer.status_code == 200, answer.text
        with Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))) as image:
            texts: dict[str, str] = image.text  # type: ignore[attr-defined]
        assert json.loads(texts["sensenova"])["model"] == "tiny"
        paths = (
            "/v1/models",
            "/v1/sensenova/info",
            "/metrics",
            "/openapi.json",
            "/sdapi/v1/options",
            "/sdapi/v1/sd-models",
        )
        everything = [answer.text, *texts.values(), *(client.get(path).text for path in paths)]
        for folder in (str(tmp_path), str(tiny_checkpoint.parent), "secret folder", str(REPOSITORY)):
            assert not [text for text in everything if folder in text]
