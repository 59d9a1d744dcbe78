"""Bodies that cannot be used, in JSON and in forms: an error, flat memory, and the next request works."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from sensenova_cli.serve import bodies
from sensenova_cli.serve.service import MAX_TEXT
from tests.serve.conftest import Serve, Served
from tests.serve.hostile import CHAT, EDITS, GENERATIONS, RUN, data_url, form, peak_memory, png, refused, survival  # noqa: F401
from tests.serve.raw import error_in, exchange, get, post


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        '"x"',
        "7",
        '{"prompt": "x"} x',
        "{'prompt': 'x'}",
        '{"prompt": "x", "cfg_scale": NaN}',
        '{"prompt": "x", "cfg_scale": Infinity}',
        '{"prompt": "x", "cfg_scale": -Infinity}',
        '{"prompt": "x", "cfg_scale": 1e400}',
        '{"prompt": "x", "cfg_scale": -1e999999}',
        '{"prompt": "x", "seed": ' + "9" * 6000 + "}",
        '{"prompt": "x", "seed": ' + "9" * 4000 + "}",
        '{"prompt": "x", "seed": 1, "seed": 2}',
        '{"prompt": "x", "extra_body": {"seed": 1, "seed": 2}}',
        "[" * 100_000,
        '{"prompt": "x", "a": ' + "[" * 900 + "]" * 900 + "}",
        '{"prompt": "x", "a": ' + '{"b":' * 100 + "1" + "}" * 100 + "}",
        '{"extra_body":' * 200 + "{}" + "}" * 200,
        "\xff\xfe",
        "\x00",
        "\ufeff{}x",
    ],
)
def test_json_that_cannot_be_used(served: Served, text: str) -> None:
    for path in (RUN, GENERATIONS, EDITS, CHAT, "/sdapi/v1/txt2img", "/sdapi/v1/options"):
        error = refused(served, path, text.encode("latin-1" if text == "\xff\xfe" else "utf-8"))
        assert error["code"] == "invalid_json", (path, error)
        assert len(error["message"]) < 300 and "sys." not in error["message"]


def test_many_small_values_do_not_fill_the_memory(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_VALUES", 100_000)
    before = peak_memory()
    for item in (b"[]", b"{}", b"1", b'""', b'{"a":{}}'):
        body = b'{"prompt": "x", "a": [' + b",".join([item] * 500_000) + b"]}"
        assert "too many values" in refused(served, GENERATIONS, body)["message"]
    assert peak_memory() - before < 100_000_000  # all values of the last body take 150 MB


def test_a_key_that_appears_many_times_is_found_quickly(served: Served) -> None:
    keys = b",".join(b'"%d":1' % n for n in range(100_000))
    began = time.monotonic()
    assert "appears twice" in refused(served, GENERATIONS, b"{" + keys + b"," + keys + b"}")["message"]
    assert time.monotonic() - began < 20  # comparing every key with every other one takes minutes


def test_many_short_messages_are_refused_quickly(served: Served) -> None:
    body = {"messages": [{"role": "user", "content": "x"}] * 100_000}
    assert "limit" in refused(served, CHAT, body)["message"]


@pytest.mark.parametrize("text", ["\ud800", "a \udfff cat", "a\0cat"])
def test_texts_that_are_not_text(served: Served, text: str) -> None:
    refused(served, GENERATIONS, {"prompt": text})
    refused(served, EDITS, {"prompt": text, "image": data_url(png())})
    refused(served, RUN, {"request": "generate", "prompt": text})
    refused(served, RUN, {"request": "answer", "prompt": "x", "system": text})
    refused(served, RUN, {"request": "answer", "prompt": "x", "history": [{"role": "user", "text": text}]})
    refused(served, RUN, {"request": text, "prompt": "x"})
    refused(served, RUN, {"request": "generate", "prompt": "x", "lora": text})
    refused(served, CHAT, {"messages": [{"role": "user", "content": text}]})
    refused(served, CHAT, {"messages": [{"role": text, "content": "x"}]})
    refused(served, CHAT, {"messages": [{"role": "system", "content": text}, {"role": "user", "content": "x"}]})
    for path in (GENERATIONS, CHAT):
        body = {"model": text, "prompt": "x", "messages": [{"role": "user", "content": "x"}]}
        assert refused(served, path, body)["code"] == "model_not_found"
    refused(served, "/sdapi/v1/txt2img", {"prompt": text})
    odd: dict[str, Any] = {"prompt": "x", f"unknown {text}": 1, "num_steps": 1}
    assert served.client().post(GENERATIONS, content=json.dumps(odd).encode(), headers=JSON).status_code == 200


JSON = {"Content-Type": "application/json"}
WRONG: list[Any] = [None, True, -1, 10**400, 1.5, "", "\ud800", "9" * 5000, [[]], [{}], ["x"], {}, {"url": []}]
FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    GENERATIONS: (
        {"prompt": "x", "num_steps": 1},
        "prompt model n size background output_format output_compression response_format stream partial_images "
        "seed width cfg_scale cfg_norm cfg_interval think lora extra_body extra_args image",
    ),
    EDITS: ({"prompt": "x", "num_steps": 1, "image": data_url(png())}, "image images url mask input_fidelity"),
    CHAT: (
        {"messages": [{"role": "user", "content": "x"}]},
        "messages modalities stream stream_options temperature max_tokens n response_format tools lora extra_body",
    ),
    RUN: (
        {"request": "generate", "prompt": "x"},
        "request version prompt settings images pictures history system preview_every lora",
    ),
    "/sdapi/v1/txt2img": ({"prompt": "x", "steps": 1}, "prompt steps sampler_name batch_size override_settings styles"),
    "/sdapi/v1/img2img": ({"prompt": "x", "steps": 1, "init_images": [data_url(png())]}, "init_images mask"),
    "/sdapi/v1/options": ({}, "sd_model_checkpoint"),
}


@pytest.mark.parametrize("path", FIELDS)
def test_no_value_of_any_field_breaks_the_server(served: Served, path: str) -> None:
    valid, names = FIELDS[path]
    client = served.client()
    for name in names.split():
        for value in WRONG:
            assert status(client, path, {**valid, name: value}) < 500, (name, value)


@pytest.mark.parametrize(
    ("place", "valid"),
    [
        ("messages", [{"role": "user", "content": "x"}]),
        ("messages", [{"role": "user", "content": [{"type": "text", "text": "x"}]}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]),
        ("messages", [{"role": "assistant", "content": "x", "images": []}, {"role": "user", "content": "x"}]),
        ("stream_options", {"include_usage": True}),
        ("lora", {"name": "x", "scale": 1, "path": "x"}),
    ],
)
def test_no_value_inside_a_chat_breaks_the_server(served: Served, place: str, valid: Any) -> None:
    base = {"messages": [{"role": "user", "content": "x"}]}
    client = served.client()
    for changed in variations(valid):
        assert status(client, CHAT, {**base, place: changed}) < 500, changed


@pytest.mark.parametrize(
    ("place", "valid"),
    [
        ("settings", {"seed": 1, "size": "64x64", "num_steps": 1, "cfg_interval": [0, 1], "think": False}),
        ("history", [{"role": "user", "text": "x"}, {"role": "assistant", "text": "y"}]),
        ("images", [{"png": 0}]),
        ("pictures", [{"sha256": "x"}]),
    ],
)
def test_no_value_inside_a_native_request_breaks_the_server(served: Served, place: str, valid: Any) -> None:
    client = served.client()
    for kind in ("generate", "edit", "answer"):
        base = {
            "request": kind,
            "prompt": "x",
            "pictures": [data_url(png())],
            "images": [{"png": 0}] * (kind == "edit"),
        }
        for changed in variations(valid):
            assert status(client, RUN, {**base, place: changed}) < 500, changed


def variations(value: Any) -> Iterator[Any]:
    """Yield a JSON value with one part after the other replaced by wrong ones."""
    yield from WRONG
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        for changed in variations(inner):
            copy = dict(value) if isinstance(value, dict) else list(value)
            copy[key] = changed
            yield copy


def status(client: httpx2.Client, path: str, body: Any) -> int:
    """Return the status of an answer, whose error is in the right form. An error in a stream counts, too."""
    answer = client.post(path, content=json.dumps(body).encode(), headers=JSON)
    if answer.status_code >= 400:
        error_in((answer.status_code, {**answer.headers}, answer.content))
    elif answer.headers["content-type"].startswith("text/event-stream"):
        for line in answer.text.splitlines():
            if line.startswith("data: {") and isinstance(error := json.loads(line[6:]).get("error"), dict):
                return int(error["status"])
    return answer.status_code


@pytest.mark.parametrize(
    "body",
    [
        form(*[(f'name="f{n}"', b"x") for n in range(10_000)]),
        form(*[(f'name="image"; filename="{n}.png"', b"x") for n in range(10_000)]),
        form(('name="prompt"', b"x" * 40_000_000)),
        form(('name="prompt"', b"x" * (MAX_TEXT + 1)), ('name="image"; filename="a.png"', png())),
        form(('name="image"', b"x" * 300_000)),
        form(("name=" + "x" * 60_000, b"x")),
        form(('name="prompt"', b"x"), ('name="prompt"', b"y"), ('name="image"; filename="a.png"', png())),
        form(('name="prompt"', b"x"), ('name="image"; filename="a.png"', b"not a picture")),
        form(('name="prompt"', b"\xff\xfe"), ('name="other"; filename="a.png"', png())),
        form(('name="prompt"', b"x"), ('name="image"', b"http://169.254.169.254/")),
        form(('name="prompt"', b"x"), ('name="image"', b"/etc/passwd")),
        form(('name="prompt"', b"x"), ('name="extra_body"', b"[" * 5000), ('name="image"; filename="a"', png())),
        form(('name="prompt"', b"x"), ('name="cfg_scale"', b"NaN"), ('name="image"; filename="a"', png())),
        form(('name="prompt"', b"x"), ('name="cfg_scale"', b"1e400"), ('name="image"; filename="a"', png())),
        form(('name="prompt"', b"x"), ('name="seed"', b"9" * 6000), ('name="image"; filename="a"', png())),
        form(('name="prompt"', b"x"), ('name="n"', b"[1]"), ('name="image"; filename="a"', png())),
        form(('name="seed"', b"1"), ('name="image"; filename="a"', png())),
        form(),
        b"--x\r\n\r\n--x--",
        b"--x\r\nContent-Disposition: form-data\r\n\r\nx\r\n--x--",
        b"no boundary at all",
        b"--x\r\n" + b"A: b\r\n" * 10_000,
        b"",
    ],
    ids=range(23),
)
def test_forms_that_cannot_be_used(served: Served, body: bytes) -> None:
    before = peak_memory()
    answer = exchange(served.url, post(EDITS, body, "multipart/form-data; boundary=x"))
    assert answer is not None and answer[0] in (400, 413)
    error_in(answer)
    assert peak_memory() - before < 100_000_000


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 10_000,
        "multipart/form-data; boundary=x; charset=rot13",
        "multipart/form-data; boundary=x; charset=\xff",
        "multipart/form-data-evil; boundary=x",
    ],
)
def test_forms_with_odd_types(served: Served, kind: str) -> None:
    body = form(('name="prompt"', b"x"))
    request = post(EDITS, body).replace(b"application/json", kind.encode("latin-1"))
    error_in(exchange(served.url, request))


def test_a_file_name_cannot_break_the_answer(served: Served) -> None:
    for name in ("../../etc/passwd", "a\r\nSet-Cookie: x=1", "\u202egnp.exe", "x" * 5000, "C:\\a.png", ""):
        files = {"image": (name, b"not a picture")}
        answer = served.client().post(EDITS, data={"prompt": "red"}, files=files)
        assert answer.status_code == 400 and "set-cookie" not in answer.headers
        message = answer.json()["error"]["message"]
        assert not [part for part in ("..", "etc", "C:", "\u202e", "\n") if part in message]
        assert len(message) < 400


def test_names_of_clients_cannot_split_the_answer(served: Served) -> None:
    evil = "x%0d%0aSet-Cookie:%20x=1"
    for path in (f"/v1/models/{evil}", f"/v1/sensenova/requests/{evil}", f"/v1/sensenova/pictures/{evil}", f"/{evil}"):
        answer = exchange(served.url, get(path))
        assert answer is not None and answer[0] == 404 and "set-cookie" not in answer[1]
        error_in(answer)
    for name in ("x\r\nSet-Cookie: x=1", "\x00", "x" * 1_000_000):
        error = refused(served, GENERATIONS, {"model": name, "prompt": "x"})
        assert error["code"] == "model_not_found" and len(error["message"]) < 300
        twice = {"prompt": "x", name: 1, "extra_body": {name: 2}}
        assert len(json.dumps(refused(served, GENERATIONS, twice))) < 20_000


def test_prompts_have_a_largest_length(served: Served) -> None:
    longest, longer = "x" * MAX_TEXT, "x" * (MAX_TEXT + 1)
    assert served.client().post(GENERATIONS, json={"prompt": longest}).status_code == 200
    refused(served, GENERATIONS, {"prompt": longer})
    refused(served, RUN, {"request": "answer", "prompt": longer})
    refused(served, CHAT, {"messages": [{"role": "user", "content": longer}]})
    refused(served, CHAT, {"messages": [{"role": "user", "content": longest}] * 40})
    system = [{"role": "system", "content": longest}] * 40
    refused(served, CHAT, {"messages": [*system, {"role": "user", "content": "x"}]})


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"num_images": 3}, "num_images"),
        ({"num_steps": 6}, "num_steps"),
        ({"size": "128x96"}, "size"),
        ({"size": "9999999x9999999"}, "size"),
        ({"think": True, "max_think_tokens": 11}, "max_think_tokens"),
    ],
)
def test_a_request_cannot_exceed_the_limits_of_the_operator(serve: Serve, settings: dict[str, Any], param: str) -> None:
    limited = serve(max_images=2, max_steps=5, max_pixels=96 * 96, max_new_tokens=10)
    body = {"request": "generate", "prompt": "x", "settings": settings}
    error = refused(limited, RUN, body)
    assert param in error["message"]
    assert refused(limited, RUN, {"request": "answer", "prompt": "x", "settings": {"max_tokens": 11}})
