"""The queue: its limit, positions, clients that leave, results that can be fetched later, and the end of a server."""

import base64
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from PIL import Image

from sensenova_cli.outputs.picture_writer import encode_png
from sensenova_cli.serve import service
from tests.serve.conftest import Serve, Served
from tests.serve.queue_state import CAT, GENERATIONS, RUN, jobs, queued, run_to_its_end, running, waiting
from tests.serve.raw import connect, post, read_answer
from tests.serve.test_native import events
from tests.waiting import PATIENCE, until


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
        assert refused.wait(PATIENCE)
        served.gate.set()
        data = found.result(PATIENCE).data
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
        assert found.result(PATIENCE)[-1]["error"]["code"] == "cancelled"
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
        assert served.metric('requests_total{end="cancelled"}') == 3
    until(lambda: served.service.scheduler.running is None)
    assert len(served.engine.requests) == 1


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
        answers = [each.result(PATIENCE) for each in staying]
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
        for _ in range(3):  # the server has accepted and read the connections above before it answers
            assert served.client().get("/health").status_code == 200
        until(lambda: not waiting(served) and len(served.server.server_state.connections) <= 1)
    until(lambda: served.service.scheduler.running is None)
    assert len(served.engine.requests) == 1


def slow_encoding(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Make the encoding of a picture wait; return the events of its start and of its permission to go on."""
    encoding, go_on = threading.Event(), threading.Event()

    def slow(image: Image.Image, record: Any) -> bytes:
        encoding.set()
        assert go_on.wait(PATIENCE)
        return encode_png(image, record)

    monkeypatch.setattr("sensenova_cli.serve.scheduler.encode_png", slow)
    return encoding, go_on


@pytest.mark.parametrize("path", [RUN, GENERATIONS])
def test_a_picture_that_is_being_encoded_survives_its_client(
    served: Served, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    encoding, go_on = slow_encoding(monkeypatch)
    with closing(connect(served.url)) as connection:
        connection.sendall(post(path, json.dumps({**CAT, "num_steps": 2}).encode()))
        assert encoding.wait(PATIENCE)
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
    encoding, go_on = slow_encoding(monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: list(events(served.client(), CAT)))
        assert encoding.wait(PATIENCE)
        served.client().delete(f"/v1/sensenova/requests/{jobs(served)[0].id}")
        go_on.set()
        assert "picture" in [each["event"] for each in found.result(PATIENCE)]


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
    sizes = [job.size_in_memory for job in jobs(served)]
    assert sum(sizes) <= 4_000 + max(sizes)  # old results are forgotten before the next one is added
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
        answer = whole.result(PATIENCE)
        assert answer.status_code == 503 and answer.headers["retry-after"]
        assert answer.json()["error"]["code"] == "stopping"
        error = stream.result(PATIENCE)[-1]["error"]
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
