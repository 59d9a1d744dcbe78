"""OpenAI's Images API, used by OpenAI's own client."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image, ImageChops, ImageStat

from model import DeviceMemoryError
from sensenova_cli.outputs.picture_files import read_record
from tests.cli.fake_engine import THINK
from tests.serve.clients import BLUE, RED, client, data_url, error_of, opened, plain, turned_jpeg
from tests.serve.conftest import Process, Serve, Served
from tests.waiting import until


@pytest.fixture
def api(served: Served) -> openai.OpenAI:
    """OpenAI's client of a server on a fake engine."""
    return client(served.url)


def extra(model: Any, name: str) -> Any:
    """Return a field that OpenAI's API does not have."""
    assert model.model_extra is not None
    return model.model_extra[name]


def require_complete(event: Any) -> None:
    """Check that an event has every field that its type requires, with a value of the field's type."""
    assert type(event).model_validate(event.to_dict()) == event
    required = [name for name, field in type(event).model_fields.items() if field.is_required()]
    assert [name for name in required if getattr(event, name) is None] == []


def drawn(api: openai.OpenAI, **fields: Any) -> tuple[list[Any], list[Any]]:
    """Return the partial images and the completed events of a stream."""
    events = list(api.images.generate(prompt="a cat", stream=True, **fields))
    for event in events:
        require_complete(event)
    kinds = {each.type for each in events}
    assert kinds <= {"image_generation.partial_image", "image_generation.completed"}
    return [e for e in events if "partial" in e.type], [e for e in events if "completed" in e.type]


def test_pictures_with_their_seeds_and_records(api: openai.OpenAI) -> None:
    answer = api.images.generate(
        prompt="a cat", n=2, size="64x96", quality="low", user="me", style="vivid", extra_body={"seed": 7}
    )
    assert answer.data is not None and answer.usage is not None
    assert [(extra(each, "index"), extra(each, "seed")) for each in answer.data] == [(0, 7), (1, 8)]
    images = [opened(each.b64_json) for each in answer.data]
    assert [(image.size, image.getpixel((0, 0))) for image in images] == [((64, 96), (7, 5, 4)), ((64, 96), (8, 5, 4))]
    records = [json.loads(image.text["sensenova"]) for image in images]  # type: ignore[attr-defined]
    assert records == [extra(each, "record") for each in answer.data]
    assert [record["settings"]["seed"] for record in records] == [7, 8]
    assert {record["dtype"] for record in records} == {"bfloat16"}  # the fake engine's, not `auto`
    assert (answer.size, answer.output_format, answer.background) == ("64x96", "png", "opaque")
    usage = answer.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (10, 12, 22)  # 2 × 64·96/1024 tokens
    assert (usage.input_tokens_details.text_tokens, usage.input_tokens_details.image_tokens) == (10, 0)
    assert extra(answer, "notices") == []
    assert extra(answer, "metrics")["steps"] == 8


def test_a_missing_seed_is_random_and_told(api: openai.OpenAI) -> None:
    seeds = [extra(api.images.generate(prompt="a cat").data[0], "seed") for _ in range(3)]  # type: ignore[index]
    assert len(set(seeds)) == 3


def test_think_text(api: openai.OpenAI) -> None:
    answer = api.images.generate(prompt="a cat", extra_body={"think": True})
    assert answer.data is not None and answer.usage is not None and answer.usage.output_tokens_details is not None
    assert extra(answer.data[0], "think_text") == "".join(THINK)
    details = answer.usage.output_tokens_details
    assert (details.text_tokens, details.image_tokens) == (4, 4)
    assert answer.usage.output_tokens == 8
    _, completed = drawn(api, n=2, extra_body={"think": True})
    assert [(each.usage.output_tokens, each.model_extra["think_text"]) for each in completed] == [
        (8, "".join(THINK))
    ] * 2


@pytest.mark.parametrize(("size", "made"), [("auto", "64x64"), ("2:1", "128x64"), ("96X64", "96x64")])
def test_sizes(api: openai.OpenAI, size: str, made: str) -> None:
    answer = api.images.generate(prompt="a cat", size=size)
    assert answer.size == made and answer.data is not None
    assert opened(answer.data[0].b64_json).size == tuple(map(int, made.split("x")))


def test_a_size_that_is_impossible_names_the_nearest(api: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        api.images.generate(prompt="a cat", size="100x100")
    error = error_of(raised)
    assert error["param"] == "size"
    assert all(size in error["message"] for size in ("96x96", "128x128"))
    assert "`" not in error["message"] and "--size" not in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 11}, "n"),
        ({"n": 0}, "n"),
        ({"size": "8192x8192"}, "size"),
        ({"size": "large"}, "size"),
        ({"extra_body": {"num_inference_steps": 201}}, "num_inference_steps"),
        ({"extra_body": {"num_steps": "many"}}, "num_steps"),
        ({"extra_body": {"num_steps": 3, "steps": 4}}, "steps"),
        ({"extra_body": {"width": 64, "height": 64, "size": "96x64"}}, "size"),
        ({"extra_body": {"image": data_url(plain())}}, "image"),
        ({"extra_body": {"extra_params": {"seed": 1}, "seed": 2}}, "seed"),
        ({"extra_body": {"lora": {"path": "/etc/passwd"}}}, "lora"),
        ({"response_format": "file"}, "response_format"),
        ({"output_format": "svg"}, "output_format"),
        ({"output_compression": 101}, "output_compression"),
        ({"partial_images": -1, "stream": True}, "partial_images"),
        ({"background": "transparent"}, "background"),
        ({"extra_body": {"mask": "x"}}, "mask"),
        ({"extra_body": {"input_fidelity": "high"}}, "input_fidelity"),
        ({"prompt": " "}, "prompt"),
        ({"prompt": "a" * 70_000}, "prompt"),
        ({"extra_body": {"prompt": 7}}, "prompt"),
    ],
)
def test_what_cannot_be_done_is_refused(served: Served, api: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        api.images.generate(**{"prompt": "a cat", **fields})
    error = error_of(raised)
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert error["message"] and "Traceback" not in error["message"]
    assert served.engine.requests == []


def test_models(api: openai.OpenAI) -> None:
    for name in ("demo", "gpt-image-1", "dall-e-3"):
        assert api.images.generate(prompt="a cat", model=name).data
    with pytest.raises(openai.NotFoundError) as raised:
        api.images.generate(prompt="a cat", model="flux")
    assert (error_of(raised)["code"], error_of(raised)["param"]) == ("model_not_found", "model")
    assert "demo" in error_of(raised)["message"]


def test_bodies_of_other_clients_need_no_notice(served: Served) -> None:
    libre_chat = {"quality": "auto", "background": "auto", "output_format": "png", "moderation": "low", "n": 1}
    open_webui = {"n": 1, "size": "64x64", "response_format": "b64_json", "seed": None}
    ai_sdk = {"n": 1, "size": "64x64", "response_format": "b64_json", "user": "me"}
    for fields in (libre_chat, open_webui, ai_sdk):
        body = {"model": "gpt-image-1", "prompt": "a cat", **fields}
        answer = served.client().post("/v1/images/generations", json=body)
        assert (answer.status_code, answer.json()["notices"]) == (200, [])
        form = {name: str(value) for name, value in body.items() if value is not None}
        files = [("image[]", ("a.png", plain(), "image/png")), ("image[]", ("b.png", plain(), "image/png"))]
        edited = served.client().post("/v1/images/edits", data=form, files=files)
        assert (edited.status_code, edited.json()["notices"]) == (200, []), edited.text


def test_a_picture_by_address(api: openai.OpenAI) -> None:
    answer = api.images.generate(prompt="a cat", response_format="url", extra_body={"seed": 3})
    assert answer.data is not None and answer.data[0].url is not None and answer.data[0].b64_json is None
    file = httpx2.get(answer.data[0].url, trust_env=False)
    assert file.headers["content-type"] == "image/png"
    assert opened(file.content).getpixel((0, 0)) == (3, 5, 4)


@pytest.mark.parametrize(("kind", "name"), [("webp", "WEBP"), ("jpeg", "JPEG")])
def test_file_formats(api: openai.OpenAI, kind: Any, name: str) -> None:
    answer = api.images.generate(prompt="a cat", output_format=kind, output_compression=50, extra_body={"seed": 90})
    assert answer.data is not None and answer.output_format == kind
    image = opened(answer.data[0].b64_json)
    assert (image.format, image.size) == (name, (64, 64))
    assert extra(answer.data[0], "record")["settings"]["seed"] == 90
    record = read_record(base64.b64decode(answer.data[0].b64_json or ""))
    assert record is not None and record.settings.seed == 90
    partial, completed = drawn(api, output_format=kind, partial_images=1)
    assert [opened(each.b64_json).format for each in (*partial, *completed)] == [name, name]


def test_a_picture_that_the_format_cannot_hold_is_not_drawn(served: Served, api: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="a WebP file has up to 16,383 pixels a side"):
        api.images.generate(prompt="a cat", size="16416x96", output_format="webp")  # type: ignore[call-overload]
    assert not served.engine.requests


@pytest.mark.parametrize("name", ["negative", "negative_prompt"])
def test_negative_prompt(served: Served, api: openai.OpenAI, name: str) -> None:
    answer = api.images.generate(prompt="a cat", extra_body={name: "dogs"})
    assert served.engine.requests[-1].settings.negative == "dogs"
    assert extra(answer, "notices") == [] and extra(answer.data[0], "record")["settings"]["negative"] == "dogs"
    with pytest.raises(openai.BadRequestError, match=rf"{name} has 70,000 characters; the limit is 65,536"):
        api.images.generate(prompt="a cat", extra_body={name: "dogs " * 14_000})


def test_notices_name_what_has_no_effect(served: Served, api: openai.OpenAI) -> None:
    fields = {"colour": 1, "true_cfg_scale": 3, "guidance_scale": 7}
    answer = api.images.generate(prompt="a cat", output_compression=50, extra_body={**fields, "partial_images": 2})
    notices = extra(answer, "notices")
    named = ("colour", "true_cfg_scale", "guidance_scale", "partial_images", "output_compression")
    assert len(notices) == 5 and all(any(f'"{name}"' in text for text in notices) for name in named)
    _, (completed,) = drawn(api, extra_body=fields, partial_images=5)
    told = completed.model_extra["notices"]
    assert len(told) == 4 and '"partial_images": this number of steps has 3 at most' in told


@pytest.mark.parametrize(
    ("count", "num_steps", "steps"),
    [(3, 8, [2, 4, 6]), (3, 50, [12, 24, 36]), (3, 7, [2, 4, 6]), (1, 9, [4]), (3, 4, [1, 2, 3]), (3, 3, [1, 2])],
)
def test_partial_images_are_evenly_spaced(served: Served, count: int, num_steps: int, steps: list[int]) -> None:
    now = 0

    def on_step(number: int) -> None:
        nonlocal now
        now = number

    served.engine.on_step = on_step
    served.engine.predict = lambda side: Image.new("RGB", (64, 64), (now, 0, 0))
    partial, completed = drawn(client(served.url), partial_images=count, n=2, extra_body={"num_steps": num_steps})
    for index in (0, 1):
        own = [each for each in partial if each.model_extra["index"] == index]
        assert [each.partial_image_index for each in own] == list(range(len(steps)))
        assert [opened(each.b64_json).getpixel((0, 0)) for each in own] == [(step, 0, 0) for step in steps]
    assert [each.model_extra["index"] for each in completed] == [0, 1]
    assert completed[1].model_extra["seed"] == completed[0].model_extra["seed"] + 1
    assert all(each.usage.output_tokens == 4 for each in completed)


def test_a_stream_without_partial_images(api: openai.OpenAI) -> None:
    partial, completed = drawn(api, response_format="url", size="96x64")
    assert partial == []
    assert completed[0].size == "96x64" and opened(completed[0].b64_json).size == (96, 64)
    assert httpx2.get(completed[0].model_extra["url"], trust_env=False).content == base64.b64decode(
        completed[0].b64_json
    )


@pytest.mark.parametrize(
    ("fault", "code"),
    [(RuntimeError("a secret"), "unexpected"), (DeviceMemoryError("out of memory", ""), "out_of_memory")],
)
def test_a_fault_in_a_step_ends_a_stream_with_an_error(served: Served, fault: Exception, code: str) -> None:
    def fail(step: int) -> None:
        if step == 3:
            raise fault

    working, served.engine.on_step = served.engine.on_step, fail
    api = client(served.url)
    seen = []
    with pytest.raises(openai.APIError) as raised:
        for event in api.images.generate(prompt="a cat", stream=True, partial_images=3):
            seen.append(event.type)
    assert raised.value.code == code and "secret" not in str(raised.value)
    assert seen == ["image_generation.partial_image"] * 2
    with pytest.raises(openai.APIError) as edited:
        list(api.images.edit(prompt="red", image=plain(), stream=True))
    assert edited.value.code == code
    retrying = api.with_options(max_retries=2)
    before = len(served.engine.requests)
    with pytest.raises(openai.InternalServerError):
        retrying.images.generate(prompt="a cat")
    assert len(served.engine.requests) == before + 1, "a request that fails again is not repeated"
    served.engine.on_step = working
    assert api.images.generate(prompt="a cat").data


def test_a_full_queue_is_retried(serve: Serve) -> None:
    served = serve(max_queue=0)
    served.gate.clear()
    with served.client().stream("POST", "/v1/images/generations", json={"prompt": "a cat", "stream": True}):
        until(lambda: len(served.engine.requests) == 1)
        with pytest.raises(openai.InternalServerError) as raised:
            client(served.url).images.generate(prompt="a cat")
        assert raised.value.status_code == 503 and error_of(raised)["code"] == "queue_full"
        assert raised.value.response.headers["retry-after"] == "5"


def images_of(served: Served) -> list[Image.Image]:
    """Return the pictures of the last request."""
    return list(served.engine.requests[-1].images)  # type: ignore[union-attr]


def test_edits(served: Served, api: openai.OpenAI) -> None:
    one = api.images.edit(prompt="make it red", image=plain(BLUE, (96, 64)), extra_body={"seed": 5})
    assert one.data is not None and one.usage is not None
    assert (opened(one.data[0].b64_json).size, extra(one.data[0], "seed")) == ((64, 64), 5)
    assert [(each.size, each.getpixel((0, 0))) for each in images_of(served)] == [((96, 64), BLUE)]
    record = extra(one.data[0], "record")
    assert (record["task"], len(record["inputs"][0]["sha256"])) == ("edit", 64)
    api.images.edit(prompt="make it red", image=[plain(BLUE)])
    assert [each.getpixel((0, 0)) for each in images_of(served)] == [BLUE]
    api.images.edit(prompt="mix them", image=[("a.png", plain(BLUE)), ("b.png", plain(RED))])
    assert [each.getpixel((0, 0)) for each in images_of(served)] == [BLUE, RED]


def test_edits_of_transparent_and_turned_pictures(served: Served, api: openai.OpenAI) -> None:
    api.images.edit(prompt="more", image=plain((0, 0, 0, 0)))
    assert [each.getpixel((0, 0)) for each in images_of(served)] == [(255, 255, 255)]
    api.images.edit(prompt="more", image=turned_jpeg())
    (image,) = images_of(served)
    assert image.size == (64, 96)
    above, below = image.getpixel((32, 10)), image.getpixel((32, 86))
    assert isinstance(above, tuple) and isinstance(below, tuple) and above[0] > 150 > below[0]


def test_form_fields_have_their_types(served: Served, api: openai.OpenAI) -> None:
    answer = api.images.edit(
        prompt="7",
        image=plain(),
        n=2,
        size="64x64",
        quality="auto",
        input_fidelity=openai.omit,
        extra_body={
            "seed": 9,
            "cfg_scale": 2,
            "think": True,
            "num_steps": 3,
            "cfg_interval": [0.1, 0.5],
            "cfg_every": 2,
            "cfg_stop": 0.1,
            "half_size_until": 0.3,
            "colour": 1,
        },
    )
    assert answer.data is not None and len(answer.data) == 2
    settings: Any = served.engine.requests[-1].settings
    assert (settings.seed, settings.num_images, settings.think, settings.num_steps) == (9, 2, True, 3)
    assert (settings.cfg_scale, settings.cfg_interval) == (2.0, (0.1, 0.5))
    assert (settings.cfg_every, settings.cfg_stop, settings.half_size_until) == (2, 0.1, 0.3)
    assert served.engine.requests[-1].prompt == "7"
    assert extra(answer, "notices") == ['"colour" is unknown and has no effect']
    api.images.edit(prompt="more", image=plain(), extra_body={"extra_body": '{"seed": 4}', "stream": "false"})
    assert served.engine.requests[-1].settings.seed == 4
    api.images.edit(prompt="more", image=plain(), extra_body={"extra_args": {"seed": 6, "cfg_scale": 1.5}})
    settings = served.engine.requests[-1].settings
    assert (settings.seed, settings.cfg_scale) == (6, 1.5)


def test_a_lora_in_a_form(serve: Serve, home: Path) -> None:
    (home / "pixel.safetensors").write_bytes(b"")
    served = serve(loras="pixel=pixel.safetensors")
    api = client(served.url)
    api.images.edit(prompt="more", image=plain(), extra_body={"lora": {"name": "pixel", "scale": 0.5}})
    assert [(each.name, each.strength) for each in served.engine.loras] == [("pixel.safetensors", 0.5)]


@pytest.mark.parametrize(
    "name",
    [
        "seed[x]",
        "size[x]",
        "width[x]",
        "prompt[x]",
        "stream[x]",
        "model[x]",
        "lora[x]",
        "lora[name]",
        "output_format[x]",
        "response_format[x]",
        "partial_images[x]",
        "output_compression[x]",
        "extra_args[seed][x]",
        "[]",
        "[x]",
        "seed[]",
    ],
)
def test_odd_form_fields_never_break_the_server(served: Served, name: str) -> None:
    fields = {"prompt": "more", name: "["} if name != "prompt[x]" else {name: "["}
    files = {"image": ("a.png", plain(), "image/png")}
    answer = served.client().post("/v1/images/edits", data=fields, files=files)
    content = answer.json()
    assert answer.status_code in (200, 400, 404)
    assert content["notices"] if answer.status_code == 200 else content["error"]["message"]


def test_edits_in_json(served: Served) -> None:
    url = data_url(plain(BLUE))
    forms: list[dict[str, Any]] = [
        {"image": url},
        {"image": [url]},
        {"images": [{"image_url": url}]},
        {"images": [{"type": "image_url", "image_url": {"url": url}}]},
        {"image": base64.b64encode(plain(BLUE)).decode()},
        {"url": url},
    ]
    for form in forms:
        answer = served.client().post("/v1/images/edits", json={"prompt": "red", **form})
        assert answer.status_code == 200, answer.text
        assert [each.getpixel((0, 0)) for each in images_of(served)] == [BLUE]
    answer = served.client().post("/v1/images/edits", json={"prompt": "red", "images": [{"file_id": "file-1"}]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"image": b"not a picture"}, "image", "not_a_picture"),
        ({"image": plain()[:60]}, "image", "not_a_picture"),
        ({"image": []}, "image", "invalid_request"),
        ({"image": [plain()] * 17}, "image", "invalid_request"),
        ({"mask": plain()}, "mask", "not_supported"),
        ({"background": "transparent"}, "background", "not_supported"),
        ({"input_fidelity": "high"}, "input_fidelity", "not_supported"),
        ({"extra_body": {"image_2": plain().hex()}}, None, ""),
        ({"n": 11}, "n", "limit"),
        ({"extra_body": {"seed": "many"}}, "seed", "invalid_request"),
        ({"extra_body": {"extra_params": "{"}}, "extra_params", "invalid_json"),
        ({"extra_body": {"url": "http://169.254.169.254/"}}, "url", "picture_url_refused"),
        ({"extra_body": {"url": "file:///etc/passwd"}}, "url", "picture_url_refused"),
    ],
)
def test_edits_that_cannot_be_done(api: openai.OpenAI, fields: dict[str, Any], param: str | None, code: str) -> None:
    call = {"prompt": "red", "image": plain(), **fields}
    if param is None:
        assert api.images.edit(**call).model_extra["notices"]  # type: ignore[index]
        return
    with pytest.raises(openai.BadRequestError) as raised:
        api.images.edit(**call)
    assert (error_of(raised)["param"], error_of(raised)["code"]) == (param, code)


def test_a_stream_of_an_edit(served: Served, api: openai.OpenAI) -> None:
    events = list(api.images.edit(prompt="red", image=[plain(), plain()], stream=True, partial_images=2, n=2))
    for event in events:
        require_complete(event)
    made = ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert [each.type for each in events] == made * 2
    assert len(images_of(served)) == 2


def test_a_waiting_client_hears_its_place_in_comments(served: Served) -> None:
    served.gate.clear()
    body = {"prompt": "a cat", "stream": True}
    with served.client().stream("POST", "/v1/images/generations", json=body) as first:
        until(lambda: len(served.engine.requests) == 1)
        with served.client().stream("POST", "/v1/images/generations", json=body) as second:
            lines: Iterator[str] = second.iter_lines()
            assert next(line for line in lines if line) == ": queued 1"
            served.gate.set()
            assert "completed" in first.read().decode()
            assert ": running" in list(lines)


def test_a_slow_stream_shows_that_it_is_alive(served: Served) -> None:
    body = {"prompt": "a cat", "stream": True, "think": True, "num_steps": 3, "partial_images": 1}
    lines = served.client().post("/v1/images/generations", json=body).text.splitlines()
    assert [line for line in lines if line.startswith((": think", ": step", "event: "))] == [
        *[": thinking"] * len(THINK),
        ": step 1 of 3",
        "event: image_generation.partial_image",
        ": step 3 of 3",
        "event: image_generation.completed",
    ]
    wish = {"modalities": ["image"], "num_steps": 3, "stream": True, "messages": [{"role": "user", "content": "a cat"}]}
    lines = served.client().post("/v1/chat/completions", json=wish).text.splitlines()
    assert [line for line in lines if line.startswith(": step")] == [": step 1 of 3", ": step 2 of 3", ": step 3 of 3"]


def test_partial_images_come_closer_to_the_picture(demo_server: Process) -> None:
    events: Any = client(demo_server.url).images.generate(
        prompt="a red circle", size="128x128", stream=True, partial_images=3, extra_body={"seed": 1, "num_steps": 8}
    )
    *partial, completed = [opened(each.b64_json) for each in events]
    distances = [distance(each, completed) for each in partial]
    assert len(distances) == 3
    assert distances[0] > distances[1] > distances[2] > 0


def distance(first: Image.Image, second: Image.Image) -> float:
    """Return the mean absolute difference of two pictures."""
    return sum(ImageStat.Stat(ImageChops.difference(first.convert("RGB"), second.convert("RGB"))).mean)


def test_a_large_preview_is_small_enough(served: Served, api: openai.OpenAI) -> None:
    sizes = []

    def predict(side: int) -> Image.Image:
        sizes.append(side)
        return Image.new("RGB", (64, 64))

    served.engine.predict = predict
    drawn(api, partial_images=1, size="2048x2048")
    assert sizes and set(sizes) == {1024}
