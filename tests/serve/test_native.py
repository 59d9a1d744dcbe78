"""The native API: its stream of events, results by id, and stored pictures."""

import base64
import hashlib
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from PIL import Image

from model import Packed, Picture, unpack_event
from tests.cli.fake_engine import ANSWER, THINK
from tests.serve.conftest import Served
from tests.waiting import until


def events(client: httpx2.Client, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the events of a request."""
    with client.stream("POST", "/v1/sensenova/run", json=body) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        tag = ""
        for line in response.iter_lines():
            if line.startswith("event: "):
                tag = line.removeprefix("event: ")
            if line.startswith("data: "):
                content = json.loads(line.removeprefix("data: "))
                assert content["event"] == tag
                yield content


def png(color: tuple[int, int, int] = (1, 2, 3), size: tuple[int, int] = (64, 64)) -> bytes:
    """Return a PNG file."""
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture(served: Served) -> None:
    body = {"request": "generate", "prompt": "a cat", "settings": {"seed": 7, "num_steps": 3}, "preview_every": 1}
    found = list(events(served.client(), body))
    assert [each["event"] for each in found] == [
        "queued", "queued", "prefix", "prefix", "step", "step", "step", "picture", "statistics",
    ]  # fmt: skip
    assert [each["step"] for each in found if each["event"] == "step"] == [1, 2, 3]
    picture = found[-2]
    assert picture["settings"]["seed"] == 7
    file = base64.b64decode(picture["pictures"][0])
    with Image.open(io.BytesIO(file)) as image:
        record = json.loads(image.text["sensenova"])  # type: ignore[attr-defined]
        assert image.getpixel((0, 0)) == (7, 5, 3)
    assert (record["prompt"], record["settings"]["seed"], record["model"]) == ("a cat", 7, "demo")
    packed = Packed({key: value for key, value in picture.items() if key != "pictures"}, (file,))
    event = unpack_event(packed)
    assert isinstance(event, Picture) and event.image.getpixel((0, 0)) == (7, 5, 3)
    preview = next(each for each in found if each["event"] == "step")
    assert preview["preview"] == {"png": 0} and len(preview["pictures"]) == 1


def test_a_missing_seed_is_random_and_told(served: Served) -> None:
    body = {"request": "generate", "prompt": "a cat"}
    seeds = {list(events(served.client(), body))[-2]["settings"]["seed"] for _ in range(3)}
    assert len(seeds) == 3


def test_thinking(served: Served) -> None:
    body = {"request": "generate", "prompt": "a cat", "settings": {"think": True}}
    found = list(events(served.client(), body))
    assert "".join(each["text"] for each in found if each["event"] == "think_token") == "".join(THINK)
    assert next(each["text"] for each in found if each["event"] == "think") == "".join(THINK)


def test_an_edit_of_a_stored_picture(served: Served) -> None:
    file = png()
    name = hashlib.sha256(file).hexdigest()
    client = served.client()
    assert client.put(f"/v1/sensenova/pictures/{name}", content=file).status_code == 201
    assert client.put(f"/v1/sensenova/pictures/{name}", content=file).status_code == 200
    assert client.get(f"/v1/sensenova/pictures/{name}").content == file
    wrong = client.put(f"/v1/sensenova/pictures/{'0' * 64}", content=file)
    assert wrong.status_code == 400 and name in wrong.json()["error"]["message"]
    body = {"request": "edit", "prompt": "red", "images": [{"png": 0}], "pictures": [{"sha256": name}]}
    assert list(events(client, body))[-2]["event"] == "picture"
    assert served.engine.requests[-1].images[0].getpixel((0, 0)) == (1, 2, 3)  # type: ignore[union-attr]
    unknown = {**body, "pictures": [{"sha256": "f" * 64}]}
    answer = client.post("/v1/sensenova/run", json=unknown)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "picture_unknown")


def test_an_answer_with_history(served: Served) -> None:
    body = {
        "request": "answer",
        "prompt": "And now?",
        "history": [{"role": "user", "text": "<image>\nWhat is it?"}, {"role": "assistant", "text": "A cat."}],
        "system": "Be brief.",
        "images": [{"png": 0}],
        "pictures": ["data:image/png;base64," + base64.b64encode(png()).decode()],
        "settings": {"max_tokens": 2},
    }
    found = list(events(served.client(), body))
    assert [each["text"] for each in found if each["event"] == "token"] == ANSWER[:2]
    assert found[-2]["finish"] == "length"
    request: Any = served.engine.requests[-1]
    assert (request.system, request.history[1].text, len(request.images)) == ("Be brief.", "A cat.", 1)


def test_an_interleaved_answer(served: Served) -> None:
    file = "data:image/png;base64," + base64.b64encode(png()).decode()
    body = {
        "request": "interleave",
        "prompt": "a book",
        "settings": {"seed": 7, "num_steps": 2, "think": False},
        "text_settings": {"max_images": 2, "colour": 1},
        "history": [
            {"role": "user", "text": "a kite"},
            {"role": "assistant", "text": "It flies.", "images_at": [3]},
        ],
        "images": [{"png": 0}, {"png": 1}],
        "pictures": [file, file],
    }
    found = list(events(served.client(), body))
    assert [each["settings"]["seed"] for each in found if each["event"] == "picture"] == [7, 8]
    answer = next(each for each in found if each["event"] == "interleaved")
    assert [part.get("index") for part in answer["parts"] if "seed" in part] == [0, 1]
    assert [each["text"] for each in found if each["event"] == "notice"] == ["ignored: text_settings.colour"]
    request: Any = served.engine.requests[-1]
    assert (request.system, request.text_settings.max_images, request.history[1].images_at) == (None, 2, (3,))
    assert (len(request.images), len(request.new_images)) == (2, 1)
    state = served.client().get(f"/v1/sensenova/requests/{found[0]['id']}").json()
    assert answer in state["events"]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"text_settings": {"max_images": 0}}, "text_settings.max_images"),
        ({"text_settings": 1}, "text_settings"),
        ({"text_settings": {"max_images": 11}}, "max_images"),
        ({"system": 3}, "system"),
        ({"history": [{"role": "assistant", "text": "a", "images_at": ["0"]}]}, "history.0.images_at"),
        ({"history": [{"role": "assistant", "text": "a", "images_at": [0]}]}, None),
        ({"prompt": "<image>"}, None),
    ],
)
def test_a_wrong_interleaved_answer_is_refused(served: Served, changes: dict[str, Any], param: str | None) -> None:
    answer = served.client().post("/v1/sensenova/run", json={"request": "interleave", "prompt": "a book", **changes})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_unknown_fields_are_named(served: Served) -> None:
    body = {"request": "generate", "prompt": "a cat", "colour": 1, "settings": {"styl": 2}}
    notices = [each["text"] for each in events(served.client(), body) if each["event"] == "notice"]
    assert notices == ["ignored: colour", "ignored: settings.styl"]


def test_a_wrong_setting_names_its_field(served: Served) -> None:
    body = {"request": "generate", "prompt": "a cat", "settings": {"num_steps": 0}}
    answer = served.client().post("/v1/sensenova/run", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "settings.num_steps"
    assert "a whole number from 1 to 1000" in answer.json()["error"]["message"]


def test_a_closed_connection_stops_the_work(served: Served) -> None:
    served.gate.clear()
    body = {"request": "generate", "prompt": "a cat", "settings": {"num_steps": 100}}
    client = served.client()
    with client.stream("POST", "/v1/sensenova/run", json=body) as response:
        assert any('"branch":"unconditional"' in line for line in response.iter_lines())
    client.close()
    job = served.service.scheduler.running
    assert job is not None
    until(lambda: job.stop.requested)
    served.gate.set()
    until(lambda: served.engine.request_closed)
    until(lambda: served.metric('requests_total{end="cancelled"}') == 1)
    assert served.steps <= 2


def test_a_request_is_stopped_by_its_id(served: Served) -> None:
    served.gate.clear()
    body = {"request": "generate", "prompt": "a cat", "settings": {"num_steps": 5}}
    found = []
    for each in events(served.client(), body):
        found.append(each)
        if each["event"] == "prefix" and len(found) == 4:
            stopped = served.client().delete(f"/v1/sensenova/requests/{found[0]['id']}")
            assert stopped.json()["status"] == "cancelled"
            served.gate.set()
    assert found[-1]["error"]["code"] == "cancelled"
    state = served.client().get(f"/v1/sensenova/requests/{found[0]['id']}").json()
    assert state["status"] == "cancelled"
    assert served.client().delete("/v1/sensenova/requests/req-none").status_code == 404


def test_a_result_can_be_fetched_again(served: Served) -> None:
    body = {"request": "generate", "prompt": "a cat", "settings": {"seed": 3, "num_images": 2}}
    found = list(events(served.client(), body))
    state = served.client().get(f"/v1/sensenova/requests/{found[0]['id']}").json()
    assert state["status"] == "done"
    pictures = [each for each in state["events"] if each["event"] == "picture"]
    assert pictures == [each for each in found if each["event"] == "picture"]


def test_positions_in_the_queue(served: Served) -> None:
    served.gate.clear()
    running, waiting = served.client(), served.client()
    body = {"request": "generate", "prompt": "a cat"}
    with running.stream("POST", "/v1/sensenova/run", json=body) as first:
        until(lambda: len(served.engine.requests) == 1)
        with waiting.stream("POST", "/v1/sensenova/run", json=body) as second:
            lines = second.iter_lines()
            positions = [json.loads(next(lines_with_data(lines)))["position"]]
            served.gate.set()
            assert "statistics" in first.read().decode()
            positions += [json.loads(line)["position"] for line in lines_with_data(lines) if '"event":"queued"' in line]
            assert positions[0] == 1 and positions[-1] == 0


def lines_with_data(lines: Iterator[str]) -> Iterator[str]:
    """Yield the data of a stream's events."""
    return (line.removeprefix("data: ") for line in lines if line.startswith("data: "))


def test_info(served: Served) -> None:
    served.engine.dtype = "float32"
    found = served.client().get("/v1/sensenova/info").json()
    assert found["loaded"]["dtype"] == "float32"  # what `dtype = "auto"` became
    assert (found["model"], found["trained_sizes"][0]) == ("demo", "64x64")
    assert found["defaults"]["num_steps"] == 4 and found["limits"]["max_images"] == 10
