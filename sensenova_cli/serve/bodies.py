"""Bodies of requests: JSON objects, read with limits."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NoReturn

from starlette.requests import Request

from sensenova_cli.serve.errors import ApiError, bad_request

BODY_SECONDS = 60
"""Time in which the next part of a body must arrive."""
MAX_BODY = 256_000_000
"""Most bytes of a body."""


async def read_json(request: Request) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ApiError: the body is not declared as JSON, is not a JSON object, or contains NaN or infinity.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Web pages of other sites can send other types without asking the browser's user.
        raise ApiError(
            415, f"the content type is {kind or 'missing'}", "wrong_content_type", hint="send application/json"
        )
    body = await request.body()
    return await asyncio.to_thread(_parse, body) if len(body) > 100_000 else _parse(body)


def reject_unusable(fields: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Raise ApiError if a field asks for something that cannot be done.

    Args:
        names: field → reason.
    """
    for name, reason in names.items():
        if fields.get(name) not in (None, "", False, [], {}):
            raise bad_request(f'"{name}": {reason}', f'leave out "{name}"', param=name, code="not_supported")


def _parse(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise bad_request(f"the body is not JSON: {reason}", code="invalid_json") from None
    if not isinstance(content, dict):
        raise bad_request("the body is not a JSON object", 'write it like {"prompt": "a cat"}', code="invalid_json")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
