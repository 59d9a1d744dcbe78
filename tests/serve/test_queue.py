"""The queue: its limit, positions, clients that leave, errors of the model, and results that can be fetched later."""

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image

from model import CheckpointError, DeviceMemoryError, RankError
from sensenova_cli.outputs.picture_writer import encode_png
from sensenova_cli.serve import service
from sensenova_cli.serve.jobs import Job
from sensenova_cli.serve.scheduler import LoadingState
from tests.cli.fake_engine import FakeEngine
from tests.serve.conftest import Serve, Served, until
from tests.serve.raw import connect, post, read_answer
from tests.serve.test_native import events

RUN = "/v1/sensenova/run"
GENERATIONS = "/v1/images/generations"
CAT = {"request": "generate", "prompt": "a cat", "settings": {"num_steps": 5}}


def jobs(served: Served) -> list[Job]:
    """Return all jobs that the server knows."""
    return list(served.service._jobs.values())


def run_to_its_end(served: Served) -> str:
    """Run a request and return its id."""
    found = list(events(served.client(), CAT))
    return str(found[0]["id"])


def waiting(served: Served) -> int:
    """Return the number of waiting jobs."""
    return len(served.service.scheduler.waiting)


@contextmanager
def running(served: Served) -> Iterator[httpx2.Response]:
    """Enclose a request that runs until the gate opens."""
    served.gate.clear()
    with served.client().stream("POST", RUN, json=CAT) as response:
        assert response.status_code == 200
        until(lambda: served.service.scheduler.running is not None)
        yield response
        served.gate.set()


@contextmanager
def queued(served: Served, count: int) -> Iterator[list[Any]]:
    """Enclose waiting requests."""
    sockets = []
    before = waiting(served)
    for number in range(count):
        sockets.append(connect(served.url))
        sockets[-1].sendall(post(RUN, json.dumps(CAT).encode()))
        until(lambda: waiting(served) == before + number + 1)  # noqa: B023  # it is called at once
    try:
        yield sockets
    finally:
        for each in sockets:
            each.close()


def test_a_full_queue_refuses(serve: Serve) -> None:
    served = serve(max_queue=2)
    with running(served), queued(served, 2):
        for path, body in ((RUN, CAT), (GENERATIONS, {"prompt": "x"}), ("/sdapi/v1/txt2img", {"prompt": "x"})):
            answer = served.client().post(path, json=body)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert answer.json()["error"]["code"] == "queue_full"
        assert served.metric('requests_total{end="refused"}') == 3
        assert served.client().get("/health").status_code == 200
    until(lambda: served.service.scheduler.running is None)
    assert served.client().post(GENERATIONS, json={"prompt": "x"}).status_code == 200


def test_no_queue_at_all(serve: Serve) -> None:
    served = serve(max_queue=0)
    with running(served):
        assert served.client().post(RUN, json=CAT).status_code == 503
    until(lambda: served.service.scheduler.running is None)
    assert served.client().post(GENERATIONS, json={"prompt": "x"}).status_code == 200


def test_pictures_are_not_decoded_if_the_queue_is_full(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve(max_queue=0)
    with running(served):
        monkeypatch.setattr("sensenova_cli.serve.pictures._decode", lambda *arguments: pytest.fail("decoded"))
        for path in ("/v1/images/edits", "/v1/chat/completions", RUN, "/sdapi/v1/img2img"):
            url = "data:image/png;base64,iVBORw0KGgo="
            content = [{"type": "image_url", "image_url": {"url": url}}]
            body = {
                "prompt": "x",
                "image": url,
                "init_images": [url],
                "messages": [{"role": "user", "content": content}],
            }
            native = {"request": "edit", "prompt": "x", "images": [{"png": 0}], "pictures": [url]}
            assert served.client().post(path, json=native if path == RUN else body).status_code == 503


def test_openai_tries_again_until_there_is_room(serve: Serve) -> None:
    served = serve(max_queue=0)
    transport = served.client()
    refused = threading.Event()
    transport.event_hooks = {"response": [lambda response: refused.set() if response.status_code == 503 else None]}
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=2, http_client=transport)
    with running(served), ThreadPoolExecutor(1) as pool:
        found = pool.submit(client.images.generate, prompt="a cat", model="demo")
        assert refused.wait(30)
        served.gate.set()
        data = found.result(60).data
        assert data is not None and data[0].b64_json


def test_positions_move_up(served: Served) -> None:
    with running(served), queued(served, 3):
        assert [job.position for job in served.service.scheduler.waiting] == [1, 2, 3]
        first, second, third = served.service.scheduler.waiting
        assert served.client().delete(f"/v1/sensenova/requests/{second.id}").json()["status"] == "cancelled"
        assert [job.position for job in served.service.scheduler.waiting] == [1, 2]
        states = [served.client().get(f"/v1/sensenova/requests/{job.id}").json() for job in (first, second, third)]
        assert [(state["status"], state["position"]) for state in states] == [
            ("queued", 1), ("cancelled", 2), ("queued", 2),
        ]  # fmt: skip


def test_a_stopped_waiting_request_is_told(served: Served) -> None:
    with running(served) as response, ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: list(events(served.client(), CAT)))
        until(lambda: waiting(served) == 1)
        (job,) = served.service.scheduler.waiting
        served.client().delete(f"/v1/sensenova/requests/{job.id}")
        assert found.result(30)[-1]["error"]["code"] == "cancelled"
        served.gate.set()
        assert "statistics" in response.read().decode()
    assert len(served.engine.requests) == 1  # the stopped one never ran


def test_a_client_that_leaves_frees_its_place(serve: Serve) -> None:
    served = serve(max_queue=1)
    chat = {"messages": [{"role": "user", "content": "x"}]}
    bodies: dict[str, Any] = {RUN: CAT, GENERATIONS: {"prompt": "x"}, "/v1/chat/completions": chat}
    with running(served):
        for path, body in bodies.items():
            with closing(connect(served.url)) as connection:
                connection.sendall(post(path, json.dumps(body).encode()))
                until(lambda: waiting(served) == 1)
            until(lambda: waiting(served) == 0)
    until(lambda: served.service.scheduler.running is None)
    assert len(served.engine.requests) == 1
    assert served.metric('requests_total{end="cancelled"}') == 3


def test_fifty_clients_of_which_half_hang_up(serve: Serve) -> None:
    served = serve(max_queue=60)
    served.gate.clear()
    leaving = [connect(served.url) for _ in range(25)]
    with ThreadPoolExecutor(25) as pool:
        staying = []
        for number, connection in enumerate(leaving):
            connection.sendall(post(RUN if number % 2 else GENERATIONS, json.dumps(CAT).encode()))
            body = {"prompt": "x", "seed": number, "num_steps": 2}
            staying.append(pool.submit(served.client().post, GENERATIONS, json=body))
        for number, connection in enumerate(leaving):
            if number % 3 == 0:
                until(lambda: waiting(served) > 5)
            connection.close()
        served.gate.set()
        answers = [each.result(60) for each in staying]
    assert [answer.status_code for answer in answers] == [200] * 25
    assert [answer.json()["data"][0]["seed"] for answer in answers] == list(range(25))
    until(lambda: served.service.scheduler.running is None and not waiting(served))
    assert served.metric('requests_total{end="done"}') >= 25
    assert served.metric('requests_total{end="failed"}') == 0


def test_requests_that_hang_up_at_once_do_not_stay_in_the_queue(serve: Serve) -> None:
    served = serve(max_queue=1000)
    with running(served):
        for number in range(100):
            connection = connect(served.url)
            connection.sendall(post(RUN if number % 2 else GENERATIONS, json.dumps(CAT).encode()))
            connection.close()
        until(lambda: not waiting(served) and len(served.server.server_state.connections) <= 1)
    until(lambda: served.service.scheduler.running is None)
    assert len(served.engine.requests) == 1


@pytest.mark.parametrize("path", [RUN, GENERATIONS])
def test_a_picture_that_is_being_encoded_survives_its_client(
    served: Served, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    encoding, go_on = threading.Event(), threading.Event()

    def slow(image: Image.Image, record: Any) -> bytes:
        encoding.set()
        assert go_on.wait(60)
        return encode_png(image, record)

    monkeypatch.setattr("sensenova_cli.serve.scheduler.encode_png", slow)
    with closing(connect(served.url)) as connection:
        connection.sendall(post(path, json.dumps({**CAT, "num_steps": 2}).encode()))
        assert encoding.wait(30)
        until(lambda: bool(jobs(served)) and jobs(served)[0].is_finished)
    until(lambda: not served.server.server_state.connections)
    go_on.set()
    state = served.client().get(f"/v1/sensenova/requests/{jobs(served)[0].id}").json()
    picture = next(each for each in state["events"] if each["event"] == "picture")
    with Image.open(io.BytesIO(base64.b64decode(picture["pictures"][0]))) as image:
        assert image.size == (64, 64)
    assert state["status"] == "done"


def test_a_request_that_is_stopped_after_its_last_picture_keeps_it(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding, go_on = threading.Event(), threading.Event()

    def slow(image: Image.Image, record: Any) -> bytes:
        encoding.set()
        assert go_on.wait(60)
        return encode_png(image, record)

    monkeypatch.setattr("sensenova_cli.serve.scheduler.encode_png", slow)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: list(events(served.client(), CAT)))
        assert encoding.wait(30)
        served.client().delete(f"/v1/sensenova/requests/{jobs(served)[0].id}")
        go_on.set()
        assert "picture" in [each["event"] for each in found.result(30)]


# Loading


def loading(progress: LoadingState, outcome: Callable[[], Any]) -> tuple[Callable[..., Any], threading.Event]:
    """Return a function that loads until an event is set."""
    go_on = threading.Event()

    def open_model(on_progress: Callable[[LoadingState], None]) -> Any:
        on_progress(progress)
        assert go_on.wait(60)
        return outcome()

    return open_model, go_on


def test_a_request_while_the_model_loads(serve: Serve, home: Any) -> None:
    engine = FakeEngine(home.parent / "checkpoint")
    open_model, go_on = loading(LoadingState("loading demo", 7_000_000_000, 35_000_000_000), lambda: engine)
    served = serve(open_model=open_model)
    client = served.client()
    until(lambda: served.service.scheduler.loading.done > 0)
    health = client.get("/health")
    assert (health.status_code, health.headers["retry-after"]) == (503, "2")
    assert health.json()["status"] == "loading"
    assert health.json()["progress"] == {"done": 7_000_000_000, "total": 35_000_000_000}
    for path, body in ((RUN, CAT), (GENERATIONS, {"prompt": "x"}), ("/v1/chat/completions", {"messages": []})):
        answer = client.post(path, json=body)
        assert answer.status_code == 503 and answer.headers["retry-after"]
        assert answer.json()["error"]["code"] == "loading" and "20 %" in answer.json()["error"]["message"]
    assert client.get("/v1/sensenova/info").status_code == 503
    go_on.set()
    until(lambda: client.get("/health").status_code == 200)
    assert client.post(GENERATIONS, json={"prompt": "x"}).status_code == 200


def test_a_model_that_cannot_be_loaded_ends_the_server(serve: Serve) -> None:
    def fail() -> None:
        raise CheckpointError("model.safetensors is damaged", "download it again")

    open_model, go_on = loading(LoadingState("loading"), fail)
    served = serve(open_model=open_model)
    go_on.set()
    until(lambda: served.server.should_exit)
    assert isinstance(served.service.scheduler.failure, CheckpointError)
    until(lambda: not served.server.server_state.connections)


# Errors of the model


def failing(served: Served, error: BaseException, step: int = 3) -> None:
    """Let the engine fail in a step, once."""

    def on_step(number: int) -> None:
        if number == step:
            served.engine.on_step = lambda number: None
            raise error

    served.engine.on_step = on_step


def test_too_little_memory_is_an_error_of_one_request(served: Served, capfd: pytest.CaptureFixture[str]) -> None:
    failing(served, DeviceMemoryError("the picture needs 9 GB, and 4 GB are free: num_steps=5", "use a smaller size"))
    answer = served.client().post(GENERATIONS, json={"prompt": "a secret cat"})
    assert (answer.status_code, answer.headers["x-should-retry"]) == (500, "false")
    assert answer.json()["error"]["code"] == "out_of_memory"
    assert served.client().post(GENERATIONS, json={"prompt": "x"}).status_code == 200
    printed = capfd.readouterr().err
    assert "needs 9 GB" in printed and "secret" not in printed and "Traceback" not in printed
    failing(served, MemoryError())
    answer = served.client().post(GENERATIONS, json={"prompt": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "out_of_memory")


@pytest.mark.parametrize("stream", [True, False])
def test_an_unexpected_error_is_told_to_the_operator_only(
    served: Served, capfd: pytest.CaptureFixture[str], stream: bool
) -> None:
    failing(served, RuntimeError("kernel /home/operator/secret.cu failed"))
    answer = served.client().post(GENERATIONS, json={"prompt": "x", "stream": stream})
    content = answer.text
    assert answer.status_code == (200 if stream else 500)
    assert "secret" not in content and "Traceback" not in content and '"code":"unexpected"' in content
    assert "RuntimeError: kernel /home/operator/secret.cu failed" in capfd.readouterr().err
    assert served.client().post(GENERATIONS, json={"prompt": "x"}).status_code == 200


def test_a_file_of_the_server_is_not_named_to_clients(served: Served, capfd: pytest.CaptureFixture[str]) -> None:
    failing(served, CheckpointError("/home/operator/model.safetensors is damaged", "download it again"))
    answer = served.client().post(GENERATIONS, json={"prompt": "x"})
    assert answer.status_code == 500 and "operator" not in answer.text
    assert "/home/operator/model.safetensors is damaged" in capfd.readouterr().err


def test_a_lost_model_is_loaded_again(serve: Serve, home: Any) -> None:
    engines = [FakeEngine(home.parent / "checkpoint") for _ in range(2)]
    go_on = threading.Event()

    def open_model(on_progress: Callable[[LoadingState], None]) -> FakeEngine:
        engine = engines[len(opened)]
        opened.append(engine)
        if len(opened) == 2:
            assert engines[0].closed, "two models do not fit into the memory"
            assert go_on.wait(60)
        return engine

    opened: list[FakeEngine] = []
    served = serve(open_model=open_model)
    client = served.client()
    until(lambda: client.get("/health").status_code == 200)

    def lose(number: int) -> None:
        until(lambda: waiting(served) == 1)
        engines[0].lost = True
        raise RankError("a process of the model was lost", "")

    engines[0].on_step = lose
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(served.client().post, GENERATIONS, json={"prompt": "x"})
        until(lambda: served.service.scheduler.running is not None)
        second = pool.submit(served.client().post, GENERATIONS, json={"prompt": "y"})
        assert first.result(30).status_code == 500
        until(lambda: client.get("/health").json()["status"] == "loading")
        assert client.post(GENERATIONS, json={"prompt": "z"}).json()["error"]["code"] == "loading"
        go_on.set()
        assert second.result(30).status_code == 200  # it waited for the new model
    assert [len(engine.requests) for engine in engines] == [1, 1]


def test_a_lost_model_that_cannot_be_loaded_again_leaves_nobody_waiting(serve: Serve, home: Any) -> None:
    engine = FakeEngine(home.parent / "checkpoint")
    opened: list[int] = []

    def open_model(on_progress: Callable[[LoadingState], None]) -> FakeEngine:
        opened.append(1)
        if len(opened) == 2:
            raise RankError("the GPU is gone", "")
        return engine

    served = serve(open_model=open_model)
    until(lambda: served.client().get("/health").status_code == 200)

    def lose(number: int) -> None:
        until(lambda: waiting(served) == 2)
        engine.lost = True
        raise RankError("a process of the model was lost", "")

    engine.on_step = lose
    with ThreadPoolExecutor(3) as pool:
        posts = [pool.submit(served.client().post, GENERATIONS, json={"prompt": "x"}) for _ in range(3)]
        answers = [each.result(30) for each in posts]
    assert sorted(answer.status_code for answer in answers) == [500, 503, 503]
    until(lambda: served.server.should_exit)


# Results


def test_results_are_kept_for_ten_minutes(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_to_its_end(served)
    now = time.monotonic()
    monkeypatch.setattr(service, "time", SimpleNamespace(monotonic=lambda: now + 590, time=time.time))
    assert served.client().get(f"/v1/sensenova/requests/{first}").status_code == 200
    monkeypatch.setattr(service, "time", SimpleNamespace(monotonic=lambda: now + 610, time=time.time))
    assert served.client().get(f"/v1/sensenova/requests/{first}").status_code == 404
    assert not jobs(served)


def test_results_are_limited_in_bytes(serve: Serve) -> None:
    served = serve(keep_memory="4kB")
    ids = [run_to_its_end(served) for _ in range(30)]
    assert sum(job.size_in_memory for job in jobs(served)) <= 4_500
    states = [served.client().get(f"/v1/sensenova/requests/{each}").status_code for each in ids]
    assert states[0] == 404 and states[-1] == 200
    assert sorted(states, reverse=True) == states  # the oldest ones are forgotten


def test_results_are_limited_in_number(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_RESULTS", 5)
    body = {"messages": [{"role": "user", "content": "x"}]}
    client = served.client()
    for _ in range(12):
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert len(jobs(served)) <= 6


def test_a_finished_request_does_not_keep_its_pictures(served: Served) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    url = base64.b64encode(buffer.getvalue()).decode()
    body = {"request": "edit", "prompt": "x", "images": [{"png": 0}], "pictures": [url]}
    found = list(events(served.client(), body))
    until(lambda: jobs(served)[0]._turn is None)
    assert served.client().get(f"/v1/sensenova/requests/{found[0]['id']}").json()["status"] == "done"
    with running(served):
        pass  # its client leaves before the end
    until(lambda: served.service.scheduler.running is None)
    until(lambda: all(job._turn is None for job in jobs(served)))


# LoRAs


def test_loras_are_chosen_by_their_registered_names(serve: Serve, tmp_path: Any) -> None:
    file = tmp_path / "pixel.safetensors"
    file.write_bytes(b"x")
    served = serve(loras=f"pixel={file}:0.8, broken={tmp_path}/missing.safetensors")
    client = served.client()
    assert client.get("/v1/sensenova/info").json()["loras"] == ["pixel", "broken"]
    for lora, strength in (("pixel", 0.8), ({"name": "pixel", "scale": 0.5}, 0.5)):
        answer = client.post(GENERATIONS, json={"prompt": "x", "lora": lora})
        assert answer.status_code == 200
        assert [(each.name, each.strength) for each in served.engine.loras] == [(str(file), strength)]
        record = answer.json()["data"][0]["record"]
        assert str(tmp_path) not in json.dumps(record) and "pixel.safetensors" in record["lora"]
    assert client.post(GENERATIONS, json={"prompt": "x"}).status_code == 200
    assert not served.engine.loras  # a request without LoRA has none
    refused: list[Any] = [str(file), {"path": str(file)}, {"name": "pixel", "path": "/x"}, {"local_path": "x"}, "other"]
    refused += [
        {"name": str(file)},
        {"name": "pixel", "scale": 11},
        {"name": "pixel", "scale": "x"},
        7,
        ["pixel"],
        True,
    ]
    before = len(served.engine.requests)
    for lora in refused:
        answer = client.post(GENERATIONS, json={"prompt": "x", "lora": lora})
        assert answer.status_code == 400, lora
    assert len(served.engine.requests) == before
    broken = client.post(GENERATIONS, json={"prompt": "x", "lora": "broken"})
    assert broken.status_code == 500 and str(tmp_path) not in broken.text
    assert client.post(GENERATIONS, json={"prompt": "x", "lora": "pixel"}).status_code == 200


# Stopping


def stop(served: Served) -> None:
    """Ask the server to stop, as a signal does."""
    served.server._loop.call_soon_threadsafe(served.server.handle_exit, 15, None)


def test_a_stopping_server_finishes_what_runs_and_refuses_the_rest(served: Served) -> None:
    idle = served.client()
    assert idle.get("/health").status_code == 200
    with running(served) as response, ThreadPoolExecutor(2) as pool:
        whole = pool.submit(served.client().post, GENERATIONS, json={"prompt": "x"})
        stream = pool.submit(lambda: list(events(served.client(), CAT)))
        until(lambda: waiting(served) == 2)
        stop(served)
        answer = whole.result(30)
        assert answer.status_code == 503 and answer.headers["retry-after"]
        assert answer.json()["error"]["code"] == "stopping"
        error = stream.result(30)[-1]["error"]
        assert (error["code"], error["status"]) == ("stopping", 503)
        until(lambda: not can_connect(served))
        served.gate.set()
        assert "event: statistics" in response.read().decode()
    until(lambda: served.engine.closed)


def can_connect(served: Served) -> bool:
    """Return whether new connections are accepted."""
    try:
        connect(served.url).close()
    except OSError:
        return False
    return True


def test_a_request_whose_body_arrives_while_the_server_stops(served: Served) -> None:
    body = json.dumps(CAT).encode()
    with closing(connect(served.url)) as connection:
        connection.sendall(post(RUN, body)[:-5])
        open_ones: Any = served.server.server_state.connections
        until(lambda: any(each.cycle for each in open_ones))
        stop(served)
        until(lambda: served.service.scheduler.state == "stopping")
        connection.sendall(body[-5:])
        answer = read_answer(connection)
        assert answer is not None and answer[0] == 503 and b"stopping" in answer[2]


def test_a_png_that_cannot_be_written_fails_its_request_only(
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("sensenova_cli.serve.scheduler.encode_png", lambda image, record: 1 / 0)
        for stream in (False, True):
            answer = served.client().post(GENERATIONS, json={"prompt": "x", "stream": stream})
            assert '"code":"unexpected"' in answer.text and "division" not in answer.text
    assert "ZeroDivisionError: division by zero" in capfd.readouterr().err
    assert "ZeroDivisionError: division by zero" in caplog.text  # goes to stderr, too
    assert served.client().post(GENERATIONS, json={"prompt": "x"}).status_code == 200
