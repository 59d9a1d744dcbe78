"""The description of the API for programs: OpenAPI 3.1, at `/openapi.json`.

Paths, methods and summaries come from the routes, settings from their declarations, and bodies from `api_schemas`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sensenova_cli import __version__
from sensenova_cli.serve.api_schemas import ERRORS, JSON, OPERATIONS, PARAMETERS, SCHEMAS, Operation, Schema, ref
from sensenova_cli.serve.guard import OPEN_PATHS
from sensenova_cli.serve.streams import json_response

TAGS = {"/v1/sensenova/": "Native", "/v1/": "OpenAI", "/sdapi/": "AUTOMATIC1111", "/": "Server"}
"""Start of a path → group of its operations. The first one that matches applies."""
INTRODUCTION = (
    "One model that draws, changes and answers. Unknown fields of a request are named in `notices`. "
    "A request ends if its client closes the connection."
)


async def description(request: Request) -> Response:
    """Return the description of the API."""
    return json_response(describe(request.app.routes, needs_key=request.app.state.needs_key))


def describe(routes: Iterable[BaseRoute], *, needs_key: bool) -> dict[str, Any]:
    """Return the description of all routes.

    Args:
        needs_key: the server has a key.
    """
    paths: dict[str, dict[str, Any]] = {}
    for method, route in operations(routes):
        path = plain_path(route)
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, route, OPERATIONS[method, path])
    return {
        "openapi": "3.1.0",
        "info": {"title": "sensenova serve", "version": __version__, "description": INTRODUCTION},
        "security": [{"bearer": []}] if needs_key else [],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "responses": {**_errors("Error"), **_errors("SdError")},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Needed if the server has a key, which can also be the password of basic auth.",
                }
            },
        },
    }


def operations(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, Route]]:
    """Yield all methods of all routes. HEAD, which every GET route answers, is left out."""
    for route in routes:
        assert isinstance(route, Route)
        for method in sorted((route.methods or {"GET"}) - {"HEAD"}):
            yield method, route


def plain_path(route: Route) -> str:
    """Return a route's path without the types of its parameters."""
    return re.sub(r"{(\w+):\w+}", r"{\1}", route.path)


def _operation(method: str, path: str, route: Route, operation: Operation) -> dict[str, Any]:
    error = "SdError" if path.startswith("/sdapi/") else "Error"
    is_open = path in OPEN_PATHS
    errors = {403, *operation.errors} if is_open else {401, 403, *operation.errors}
    found: dict[str, Any] = {
        "summary": (route.endpoint.__doc__ or "").partition("\n")[0].rstrip("."),
        "operationId": "_".join([method.lower(), *re.findall(r"\w+", path)]),
        "tags": [next(tag for start, tag in TAGS.items() if path.startswith(start))],
        "responses": {
            **{str(status): _content(HTTPStatus(status).phrase, each) for status, each in operation.answers.items()},
            **{str(status): {"$ref": f"#/components/responses/{error}{status}"} for status in sorted(errors)},
        },
    }
    if is_open:
        found["security"] = []
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": PARAMETERS[name]}
        for name in re.findall(r"{(\w+)}", path)
    ]
    parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in operation.query.items()]
    if parameters:
        found["parameters"] = parameters
    if operation.body:
        found["requestBody"] = {"required": True, **_media(operation.body)}
    return found


def _content(text: str, schemas: Mapping[str, Schema]) -> dict[str, Any]:
    return {"description": text, **_media(schemas)}


def _media(schemas: Mapping[str, Schema]) -> dict[str, Any]:
    return {"content": {kind: {"schema": schema} for kind, schema in schemas.items()}}


def _errors(schema: str) -> dict[str, Any]:
    return {f"{schema}{status}": _content(text, {JSON: ref(schema)}) for status, text in ERRORS.items()}
