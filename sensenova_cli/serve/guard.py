"""Checks of every request before its API sees it: key, host and origin. They make the server safe by default.

A browser sends requests to local servers for any web page. The host check stops pages whose DNS name points at this
machine; the origin check stops the others; the key stops other machines and other users of this one.
"""

import base64
import ipaddress
import re
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sensenova_cli.serve.errors import ApiError
from sensenova_cli.serve.streams import error_response

OPEN_PATHS = ("/health", "/")
"""Paths without a key: the state of the server, and the page, which contains no data and asks for the key."""
OnRefused = Callable[[str, ApiError], None]
"""Called with the method and the route of a refused request, but not its address, which may contain secrets, and with
the error."""
CORS_METHODS = "GET, POST, PUT, DELETE, OPTIONS"
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Guard:
    """The rules.

    Attributes:
        key: the key that clients must send; None for no key.
        hosts: names, in lower case, under which clients may reach the server, besides addresses and localhost.
        origins: origins of other sites whose pages may use the server.
    """

    key: str | None = None
    hosts: Collection[str] = ()
    origins: Collection[str] = ()

    def check(self, scope: Scope) -> ApiError | None:
        """Return the error of a request that must not pass; None for one that may."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        host = hosts[0].strip().lower() if len(hosts) == 1 else ""
        if not self._is_allowed_host(host):
            return ApiError(
                403, "this host name is not allowed", "host_refused", hint="the operator can allow it with --allow-host"
            )
        if not all(self._is_allowed_origin(each, host, scope["scheme"]) for each in headers.getlist("origin")):
            return ApiError(
                403,
                "web pages of this origin are not allowed",
                "origin_refused",
                hint="the operator can allow them with --cors-origin",
            )
        if self.key is not None and scope["path"] not in OPEN_PATHS and not self._has_key(headers):
            return ApiError(
                401,
                "the key is missing or wrong",
                "invalid_api_key",
                hint="send it as Authorization: Bearer KEY",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return None

    def cors_headers(self, origin: str | None) -> dict[str, str]:
        """Return the headers that let a page of an allowed origin read the answer."""
        if origin is None or origin.lower() not in self.origins:
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Headers": "Authorization, *",  # OpenAI's client adds headers of its own
            "Access-Control-Allow-Methods": CORS_METHODS,
            "Access-Control-Expose-Headers": "X-Request-Id, Retry-After",
            "Vary": "Origin",
        }

    def _is_allowed_host(self, host: str) -> bool:
        name = _without_port(host)
        if name is None:
            return False
        if name in self.hosts or name == "localhost" or name.endswith((".localhost", ".local")):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _is_allowed_origin(self, origin: str, host: str, scheme: str) -> bool:
        own = (f"{scheme}://{host}", f"https://{host}")  # a proxy in front of the server may use https
        return origin.lower() in (*own, *self.origins)

    def _has_key(self, headers: Headers) -> bool:
        assert self.key is not None
        kind, _, key = headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":  # clients of /sdapi know only a name and a password
            given = _password(key)
        else:
            given = key.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        return secrets.compare_digest(given.encode(), self.key.encode())


class GuardMiddleware:
    """Answers requests that must not pass, and adds security headers to all answers."""

    def __init__(self, app: ASGIApp, guard: Guard, on_refused: OnRefused = lambda address, error: None) -> None:
        self._app = app
        self._guard = guard
        self._on_refused = on_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        cors = self._guard.cors_headers(headers.get("origin"))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in (SECURITY_HEADERS | cors).items():
                    answer.setdefault(name, value)
            await send(message)

        if scope["method"] == "OPTIONS":
            # Browsers ask before they send; some clients use it as a ping. The answer says nothing about the server.
            error = self._guard.check({**scope, "path": "/"})
            answer: Response = Response(status_code=204, headers={"Allow": CORS_METHODS})
        else:
            error = self._guard.check(scope)
            answer = Response()
        if error is not None:
            self._on_refused(f"{scope['method']} (not checked further)", error)
            answer = error_response(error, scope["path"])
        elif scope["method"] != "OPTIONS":
            await self._app(scope, receive, send_with_headers)
            return
        await answer(scope, receive, send_with_headers)


def _password(encoded: str) -> str:
    """Return the password in the value of a header `Authorization: Basic`; empty if it is not valid."""
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _without_port(host: str) -> str | None:
    """Return the name or address in a Host header; None if it is not valid."""
    found = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{1,5})?", host)
    return (found[1] or found[2]) if found else None
