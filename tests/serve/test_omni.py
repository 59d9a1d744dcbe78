"""Requests that the documentation of vLLM-Omni shows for this model, sent as they are except for smaller pictures."""

import copy
from typing import Any

import pytest

from tests.cli.fake_engine import ANSWER, THINK
from tests.serve.clients import BLUE, RED, data_url, from_data_url, opened, plain
from tests.serve.conftest import Served

URL = "/v1/chat/completions"
PICTURE = {"type": "image_url", "image_url": {"url": data_url(plain(BLUE, kind="JPEG"), "image/jpeg")}}
SUNSET = [{"role": "user", "content": [{"type": "text", "text": "A beautiful sunset over mountains"}]}]
PAINTING = [{"role": "user", "content": [{"type": "text", "text": "Turn this into an oil painting"}, PICTURE]}]
DESCRIBE = [{"role": "user", "content": [{"type": "text", "text": "Describe this image in detail"}, PICTURE]}]
CAPITAL = [{"role": "user", "content": [{"type": "text", "text": "What is the capital of France?"}]}]
SIZE = {"height": 64, "width": 96, "num_inference_steps": 5, "seed": 42}


def post(served: Served, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    """Send a request and return the body of its answer."""
    answer = served.client().post(URL, json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def pictures_of(answer: dict[str, Any]) -> list[Any]:
    """Return the pictures of an answer, which are a list in the message's content."""
    (choice,) = answer["choices"]
    assert (choice["finish_reason"], choice["message"]["role"]) == ("stop", "assistant")
    assert isinstance(choice["message"]["content"], list)
    return [opened(from_data_url(part["image_url"]["url"])) for part in choice["message"]["content"]]


def settings_of(served: Served) -> Any:
    """Return the settings of the last request."""
    return served.engine.requests[-1].settings


def test_text_to_image(served: Served) -> None:
    answer = post(served, {"messages": SUNSET, "modalities": ["image"], **SIZE})
    (image,) = pictures_of(answer)
    assert (image.size, image.getpixel((0, 0))) == ((96, 64), (42, len("A beautiful sunset over mountains"), 5))
    assert (settings_of(served).seed, settings_of(served).num_steps) == (42, 5)
    assert (answer["object"], answer["metrics"]["think_text"], answer["notices"]) == ("chat.completion", None, [])
    assert set(answer["usage"]) >= {"prompt_tokens", "completion_tokens", "total_tokens"}


def test_image_to_image(served: Served) -> None:
    (image,) = pictures_of(post(served, {"messages": PAINTING, "modalities": ["image"], **SIZE}))
    assert image.size == (96, 64)
    request: Any = served.engine.requests[-1]
    assert request.prompt == "Turn this into an oil painting" and len(request.images) == 1
    assert request.images[0].size == (64, 64)


def test_image_to_text(served: Served) -> None:
    answer = post(served, {"messages": DESCRIBE, "modalities": ["text"]})
    assert answer["choices"][0]["message"]["content"] == "".join(ANSWER)
    assert len(served.engine.requests[-1].images) == 1  # type: ignore[union-attr]


def test_text_to_text(served: Served) -> None:
    answer = post(served, {"messages": CAPITAL, "modalities": ["text"]})
    assert answer["choices"][0]["message"]["content"] == "".join(ANSWER)
    assert answer["metrics"]["think_text"] is None


EXTRAS = {"modalities": ["image"], **SIZE, "think": True, "cfg_scale": 3.0, "timestep_shift": 2.0}
ARGS = {"do_sample": True, "temperature": 0.7, "cfg_interval": [0.1, 0.6]}


@pytest.mark.parametrize(
    "body",
    [
        EXTRAS,
        {"extra_body": EXTRAS},
        {**EXTRAS, "extra_body": {"cfg_scale": 3.0}},
        {"modalities": ["image"], "extra_body": {"extra_args": EXTRAS}},
        {**SIZE, "modalities": ["image"], "extra_args": {"think": True, "cfg_scale": 3.0, "timestep_shift": 2.0}},
        {**SIZE, "modalities": ["image"], "extra_params": {"think": True, "cfg_scale": 3.0, "timestep_shift": 2.0}},
        {"extra_body": {**EXTRAS, "size": "96x64"}},
    ],
    ids=["root", "nested", "both", "nested args", "root args", "root params", "size and sides"],
)
def test_places_of_the_fields(served: Served, body: dict[str, Any]) -> None:
    answer = post(served, {"model": "demo", "messages": SUNSET, **copy.deepcopy(body)})
    assert [image.size for image in pictures_of(answer)] == [(96, 64)]
    settings = settings_of(served)
    assert (settings.think, settings.cfg_scale, settings.timestep_shift, settings.seed) == (True, 3.0, 2.0, 42)
    assert answer["metrics"]["think_text"] == "".join(THINK)
    assert answer["choices"][0]["message"]["reasoning_content"] == "".join(THINK)
    assert answer["notices"] == []


def test_the_escape_hatch_for_sampling_and_the_interval(served: Served) -> None:
    answer = post(served, {"messages": SUNSET, "extra_body": {**EXTRAS, "extra_args": ARGS}})
    assert settings_of(served).cfg_interval == (0.1, 0.6)
    assert all("temperature" in text or "do_sample" in text for text in answer["notices"]) and answer["notices"]
    post(served, {"messages": CAPITAL, "extra_body": {"modalities": ["text"], "max_tokens": 2, "extra_args": ARGS}})
    settings = settings_of(served)
    assert (settings.do_sample, settings.temperature, settings.max_tokens) == (True, 0.7, 2)


def test_several_pictures(served: Served) -> None:
    for name in ("num_outputs_per_prompt", "batch_size", "n"):
        answer = post(served, {"messages": SUNSET, "modalities": ["image"], **SIZE, name: 2})
        assert [image.getpixel((0, 0))[0] for image in pictures_of(answer)] == [42, 43]
    two = copy.deepcopy(PAINTING)
    two[0]["content"].append({"type": "image_url", "image_url": {"url": data_url(plain(RED))}})  # type: ignore[union-attr]
    post(served, {"messages": two, "modalities": ["image"], **SIZE})
    assert len(served.engine.requests[-1].images) == 2  # type: ignore[union-attr]


def test_a_body_without_modalities_draws_if_it_has_a_size(served: Served) -> None:
    answer = post(served, {"messages": SUNSET, **SIZE})
    assert len(answer["choices"][0]["message"]["images"]) == 1
    assert '"modalities"' in "".join(answer["notices"])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"seed": 1, "extra_body": {"seed": 2}}, "seed"),
        ({"modalities": ["image"], "height": 100, "width": 100}, "width"),
        ({"modalities": ["image"], "height": 64}, "width"),
        ({"modalities": ["image"], "extra_body": [1]}, "extra_body"),
        ({"modalities": ["image"], "lora": {"name": "x", "path": "/etc/passwd"}}, "lora"),
        ({"modalities": ["image"], "num_inference_steps": "many"}, "num_inference_steps"),
        ({"modalities": ["video"]}, "modalities"),
    ],
)
def test_errors(served: Served, fields: dict[str, Any], param: str) -> None:
    error = post(served, {"messages": SUNSET, **fields}, 400)["error"]
    assert error["param"] == param and error["message"]
    assert served.engine.requests == []


def test_a_picture_that_is_none_is_an_error(served: Served) -> None:
    broken = copy.deepcopy(PAINTING)
    broken[0]["content"][1]["image_url"]["url"] = data_url(b"none")  # type: ignore[index]
    error = post(served, {"messages": broken, "modalities": ["image"], **SIZE}, 400)["error"]
    assert error["code"] == "not_a_picture"


def test_the_images_api_with_its_fields(served: Served) -> None:
    body = {
        "prompt": "a cat", "n": 1, "size": "96x64", "response_format": "b64_json", "seed": 3, "num_inference_steps": 5,
        "extra_params": {"cfg_scale": 2.0, "think": True}, "generator_device": "cpu", "flow_shift": 2.0,
        "true_cfg_scale": 4.0,
    }  # fmt: skip
    answer = served.client().post("/v1/images/generations", json=body).json()
    settings = settings_of(served)
    assert (settings.cfg_scale, settings.think, settings.timestep_shift, settings.num_steps) == (2.0, True, 2.0, 5)
    assert answer["notices"] == ['"true_cfg_scale" has no effect: use cfg_scale']
    assert opened(answer["data"][0]["b64_json"]).size == (96, 64)
