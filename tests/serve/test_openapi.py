"""The description of the API: it fits the routes, and real requests and answers fit it."""

import base64
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from starlette.routing import Route

from config.settings import ImageSettings, SettingsGroup, TextSettings
from sensenova_cli.serve.api_schemas import OPERATIONS, PIXEL, SCHEMAS
from sensenova_cli.serve.app import routes
from sensenova_cli.serve.guard import Guard
from sensenova_cli.serve.openapi import describe
from tests.serve.conftest import Serve, Served

TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def test_every_route_is_described_and_every_described_path_exists(served: Served) -> None:
    served_paths = {
        (method, route.path.replace(":path", ""))
        for route in routes(served.service)
        for method in (route.methods or {"GET"}) - {"HEAD"}
    }
    described = describe_served(served)
    found = {(method.upper(), path) for path, each in described["paths"].items() for method in each}
    assert found == served_paths == set(OPERATIONS)
    assert ("POST", "/v1/images/generations") in found and ("GET", "/openapi.json") in found


def test_paths_that_are_turned_off_are_not_described(serve: Serve) -> None:
    assert "/" not in describe_served(serve(ui=False))["paths"]


def test_a_route_without_description_is_noticed() -> None:
    with pytest.raises(KeyError, match="/new"):
        describe([Route("/new", lambda request: None)], needs_key=False)


def test_every_operation_says_what_it_does(served: Served) -> None:
    operations = [each for path in describe_served(served)["paths"].values() for each in path.values()]
    assert all(each["summary"] for each in operations)
    ids = [each["operationId"] for each in operations]
    assert len(set(ids)) == len(ids)


def test_references_lead_somewhere(served: Served) -> None:
    document = describe_served(served)
    references = set(find_references(document))
    assert references
    for reference in references:
        assert resolve(document, {"$ref": reference})


def test_settings_come_from_their_declarations(served: Served) -> None:
    schemas = describe_served(served)["components"]["schemas"]
    groups: tuple[tuple[str, type[SettingsGroup]], ...]
    groups = (("ImageSettings", ImageSettings), ("TextSettings", TextSettings))
    for name, group in groups:
        assert set(schemas[name]["properties"]) == set(group.model_fields)
    steps = schemas["GenerationRequest"]["properties"]["num_steps"]
    assert (steps["minimum"], steps["maximum"]) == (1, 1000) and "denoising steps" in steps["description"]


def test_formats_of_files_are_those_that_the_server_takes(served: Served) -> None:
    document = json.dumps(describe_served(served))
    assert '"enum": ["png", "jpeg", "webp"]' in document and ".png" not in document


def test_only_health_and_the_page_need_no_key(serve: Serve) -> None:
    served = serve(Guard(key="secret"))
    answer = served.client(headers={"Authorization": "Bearer secret"}).get("/openapi.json")
    document = answer.json()
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert document["security"] == [{"bearer": []}]
    free = {path for path, each in document["paths"].items() if any("security" in one for one in each.values())}
    assert free == {"/", "/health"}
    for path in document["paths"]:
        assert (served.client().get(path).status_code == 401) == (path not in free)


def test_a_server_without_a_key_describes_none(served: Served) -> None:
    assert describe_served(served)["security"] == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("get", "/health", None),
        ("get", "/v1/models", None),
        ("get", "/v1/models/{demo}", None),
        ("get", "/v1/models/{none}", None),
        ("get", "/v1/sensenova/info", None),
        ("get", "/v1/sensenova/requests/{none}", None),
        ("post", "/v1/images/generations", {"prompt": "a cat", "size": "64x64", "n": 2, "think": True}),
        ("post", "/v1/images/generations", {"prompt": "a cat", "size": "64x64", "response_format": "url"}),
        ("post", "/v1/images/generations", {"prompt": "a cat", "size": "60x64"}),
        ("post", "/v1/images/edits", {"prompt": "red", "images": ["PICTURE"], "size": "64x64"}),
        ("post", "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0}),
        ("post", "/v1/chat/completions", {"messages": []}),
        ("post", "/sdapi/v1/txt2img", {"prompt": "a cat", "width": 64, "height": 64, "seed": -1}),
        ("post", "/sdapi/v1/img2img", {"prompt": "red", "init_images": ["PICTURE"], "width": 64, "height": 64}),
        ("post", "/sdapi/v1/img2img", {"prompt": "red", "init_images": []}),
        ("get", "/sdapi/v1/progress", None),
        ("get", "/sdapi/v1/options", None),
        ("get", "/sdapi/v1/samplers", None),
    ],
)
def test_requests_and_answers_fit_their_schemas(served: Served, method: str, path: str, body: Any) -> None:
    document = describe_served(served)
    if body is not None:
        body = {name: [picture()] if value == ["PICTURE"] else value for name, value in body.items()}
    answer = served.client().request(method, re.sub("[{}]", "", path), json=body)
    operation = next(each[method] for name, each in document["paths"].items() if parameters(name) == parameters(path))
    response = resolve(document, operation["responses"][str(answer.status_code)])
    kind = answer.headers["content-type"].partition(";")[0]
    problems = list(check(document, response["content"][kind]["schema"], answer.json()))
    assert not problems
    if answer.is_success and body is not None:
        assert not list(check(document, operation["requestBody"]["content"]["application/json"]["schema"], body))


BODIES: dict[str, dict[str, Any]] = {
    "/v1/images/generations": {"prompt": "a cat", "num_steps": 1},
    "/v1/images/edits": {"prompt": "red", "num_steps": 1, "images": [PIXEL]},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
    "/v1/sensenova/run": {"request": "edit", "prompt": "red", "pictures": [PIXEL], "images": [{"png": 0}]},
    "/sdapi/v1/txt2img": {"prompt": "a cat", "steps": 1},
    "/sdapi/v1/img2img": {"prompt": "red", "steps": 1, "init_images": [PIXEL]},
    "/sdapi/v1/options": {},
}
"""Path → a valid body."""
ODD_VALUES: dict[str, Any] = {"list": [[None]], "object": {"": [None]}}


@pytest.mark.parametrize("path", BODIES)
def test_no_described_field_breaks_the_server(served: Served, path: str) -> None:
    name = OPERATIONS["POST", path].body["application/json"]["$ref"].rpartition("/")[2]
    client = served.client()
    assert client.post(path, json=BODIES[path]).status_code == 200
    statuses = {
        (field, odd): client.post(path, json={**BODIES[path], field: value}).status_code
        for field in SCHEMAS[name]["properties"]
        for odd, value in ODD_VALUES.items()
    }
    assert len(statuses) > 1 and {each: status for each, status in statuses.items() if status >= 500} == {}


def test_the_check_of_these_tests_finds_problems() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"]}
    values: tuple[Any, ...] = ({}, {"a": 0}, {"a": "x"}, [], {"a": 1})
    assert [list(check({}, schema, value)) for value in values] == [
        [": a is missing"],
        [".a: 0 is below 1"],
        [".a: x is not integer"],
        [": [] is not object"],
        [],
    ]


def describe_served(served: Served) -> dict[str, Any]:
    """Return the description as a client gets it."""
    answer = served.client().get("/openapi.json")
    assert answer.status_code == 200 and answer.json()["openapi"] == "3.1.0"
    return dict(answer.json())


def parameters(path: str) -> str:
    """Return a path with its parameters without names."""
    return re.sub(r"{\w+}", "{}", path)


def picture() -> str:
    """Return a small picture in base64."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def resolve(document: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference."""
    if "$ref" not in value:
        return value
    found: Any = document
    for name in value["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return resolve(document, found)


def find_references(value: Any) -> Iterator[str]:
    """Yield all references in a document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from find_references(each)


def check(document: dict[str, Any], schema: dict[str, Any], value: Any, place: str = "") -> Iterator[str]:
    """Yield the problems of a value, by the part of JSON Schema that the description uses."""
    schema = resolve(document, schema)
    if any(not list(check(document, each, value, place)) for each in schema.get("anyOf", [])):
        return
    if "anyOf" in schema:
        yield f"{place}: {value} fits nothing"
    for each in schema.get("allOf", []):
        yield from check(document, each, value, place)
    kinds = schema.get("type", list(TYPES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not any(isinstance(value, TYPES[kind]) and (kind == "boolean") == isinstance(value, bool) for kind in kinds):
        yield f"{place}: {value} is not {' or '.join(kinds)}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{place}: {value} is none of {schema['enum']}"
    if "minimum" in schema and value < schema["minimum"]:
        yield f"{place}: {value} is below {schema['minimum']}"
    if "maximum" in schema and value > schema["maximum"]:
        yield f"{place}: {value} is above {schema['maximum']}"
    if isinstance(value, dict):
        yield from (f"{place}: {name} is missing" for name in schema.get("required", []) if name not in value)
        for name, each in schema.get("properties", {}).items():
            if name in value:
                yield from check(document, each, value[name], f"{place}.{name}")
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, each in enumerate(value):
            yield from check(document, schema["items"], each, f"{place}.{index}")
