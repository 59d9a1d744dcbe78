"""A model that loads, fails or is lost, and its LoRAs: what clients and the operator learn."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from model import CheckpointError, DeviceMemoryError, RankError
from sensenova_cli.serve.scheduler import LoadingState
from tests.cli.fake_engine import FakeEngine
from tests.serve.conftest import Serve, Served
from tests.serve.queue_state import CAT, GENERATIONS, RUN, waiting
from tests.waiting import PATIENCE, until


def loading(progress: LoadingState, outcome: Callable[[], Any]) -> tuple[Callable[..., Any], threading.Event]:
    """Return a function that loads until an event is set."""
    go_on = threading.Event()

    def open_model(on_progress: Callable[[LoadingState], None]) -> Any:
        on_progress(progress)
        assert go_on.wait(PATIENCE)
        return outcome()

    return open_model, go_on


def test_a_request_while_the_model_loads(serve: Serve, home: Any) -> None:
    engine = FakeEngine(home.parent / "checkpoint")
    open_model, go_on = loading(LoadingState(7_000_000_000, 35_000_000_000), lambda: engine)
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

    open_model, go_on = loading(LoadingState(), fail)
    served = serve(open_model=open_model)
    go_on.set()
    until(lambda: served.server.should_exit)
    assert isinstance(served.service.scheduler.failure, CheckpointError)
    until(lambda: not served.server.server_state.connections)


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
            assert go_on.wait(PATIENCE)
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
        assert first.result(PATIENCE).status_code == 500
        until(lambda: client.get("/health").json()["status"] == "loading")
        assert client.post(GENERATIONS, json={"prompt": "z"}).json()["error"]["code"] == "loading"
        go_on.set()
        assert second.result(PATIENCE).status_code == 200  # it waited for the new model
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
        answers = [each.result(PATIENCE) for each in posts]
    assert sorted(answer.status_code for answer in answers) == [500, 503, 503]
    until(lambda: served.server.should_exit)


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


def test_the_lora_of_one_client_does_not_change_the_defaults_of_others(served: Served) -> None:
    before = served.client().get("/v1/sensenova/info").json()
    # A merged LoRA changes the card of an engine.
    served.engine.recommended = served.engine.recommended.model_copy(update={"settings": {"num_steps": 2}})
    assert served.client().get("/v1/sensenova/info").json() == before
