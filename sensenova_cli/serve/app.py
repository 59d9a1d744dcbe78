"""The web application: its routes, the page, and the answers to errors."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from sensenova_cli.serve.chat import ChatApi
from sensenova_cli.serve.errors import ApiError, api_error
from sensenova_cli.serve.guard import Guard, GuardMiddleware, OnRefused
from sensenova_cli.serve.images import ImagesApi
from sensenova_cli.serve.native import NativeApi
from sensenova_cli.serve.openapi import description
from sensenova_cli.serve.sdapi import SdApi
from sensenova_cli.serve.service import Service
from sensenova_cli.serve.status import StatusApi
from sensenova_cli.serve.streams import error_response

PAGE = Path(__file__).with_name("page.html")


def build_app(service: Service, guard: Guard, on_refused: OnRefused = lambda address, error: None) -> ASGIApp:
    """Return the application of a server.

    Args:
        on_refused: called with each request that gets an error instead of a job: its method and route, and the error.
    """

    def refuse(request: Request, error: ApiError) -> Response:
        if not error.is_logged:
            route = request.scope.get("route")
            on_refused(f"{request.method} {route.path if isinstance(route, Route) else '(unknown address)'}", error)
        return error_response(error, request.url.path)

    async def on_error(request: Request, error: Exception) -> Response:
        return refuse(request, api_error(error))

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return refuse(request, _http_error(error))

    app = Starlette(
        routes=routes(service),
        middleware=[Middleware(GuardMiddleware, guard=guard, on_refused=on_refused)],
        exception_handlers={ApiError: on_error, HTTPException: on_http_error, Exception: on_error},
    )
    app.state.needs_key = guard.key is not None
    return app


def routes(service: Service) -> list[Route]:
    """Return the routes of all APIs."""
    native, images = NativeApi(service), ImagesApi(service)
    chat, status = ChatApi(service), StatusApi(service)
    found = [
        Route("/health", status.health),
        Route("/metrics", status.metrics),
        Route("/v1/models", status.models),
        Route("/v1/models/{name:path}", status.model),
        Route("/v1/chat/completions", chat.complete, methods=["POST"]),
        Route("/v1/images/generations", images.generate, methods=["POST"]),
        Route("/v1/images/edits", images.edit, methods=["POST"]),
        Route("/v1/sensenova/run", native.run, methods=["POST"]),
        Route("/v1/sensenova/info", native.info),
        Route("/v1/sensenova/requests/{id}", native.result, methods=["GET"]),
        Route("/v1/sensenova/requests/{id}", native.stop, methods=["DELETE"]),
        Route("/v1/sensenova/pictures/{sha256}", native.put_picture, methods=["PUT"]),
        Route("/v1/sensenova/pictures/{sha256}", native.get_picture, methods=["GET"]),
        *SdApi(service).routes(),
        Route("/openapi.json", description),
    ]
    if service.settings.ui:
        found.append(Route("/", _page))
    return found


async def _page(request: Request) -> Response:
    """Return the page for people."""
    content, policy = _read_page()
    return Response(content, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": policy})


@cache
def _read_page() -> tuple[bytes, str]:
    """Return the page and its Content-Security-Policy, which allows only the script and the style in it."""
    text = PAGE.read_text(encoding="utf-8")
    allowed = {}
    for tag in ("script", "style"):
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in found]
        allowed[tag] = " ".join(f"'sha256-{each}'" for each in hashes) or "'none'"
    policy = (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; "
        "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text.encode(), policy


def _http_error(error: HTTPException) -> ApiError:
    known = {
        404: ("there is no such address here", "not_found", "docs/serving.md lists the endpoints"),
        405: ("this address does not support the method", "method_not_allowed", ""),
    }
    message, code, hint = known.get(error.status_code, (str(error.detail)[:200], "invalid_request", ""))
    return ApiError(error.status_code, message, code, hint=hint, headers=dict(error.headers or {}))
