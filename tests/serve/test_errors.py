"""The text of errors, in the place where each kind of client looks for it."""

import json

import pytest

from model import DeviceMemoryError
from tests.serve.conftest import Served

HINT = "try 96x96 or 128x128"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/images/generations", {"prompt": "x", "size": "100x100"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "size": "100x100"}),
    ],
)
def test_clients_of_openais_api_get_the_hint_in_the_message(served: Served, path: str, body: object) -> None:
    error = served.client().post(path, json=body).json()["error"]
    assert error["hint"] == "" and error["message"].count(HINT) == 1
    assert error["message"] == f"size 100x100: both sides must be multiples of 32; {HINT}"


def test_native_clients_get_message_and_hint_apart(served: Served) -> None:
    body = {"request": "generate", "prompt": "x", "settings": {"size": "100x100"}}
    error = served.client().post("/v1/sensenova/run", json=body).json()["error"]
    assert error["hint"] == HINT and HINT not in error["message"]


def test_an_error_within_a_stream_has_the_hint_in_its_message(served: Served) -> None:
    def fail(number: int) -> None:
        raise DeviceMemoryError("not enough memory", "free some")

    served.engine.on_step = fail
    answer = served.client().post("/v1/images/generations", json={"prompt": "x", "stream": True}).text
    error = json.loads(answer.split("data: ")[-1])["error"]
    assert error["code"] == "out_of_memory"
    assert error["message"] == "not enough memory; ask for a smaller picture or fewer tokens"
