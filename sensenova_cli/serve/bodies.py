"""Bodies of requests: JSON objects, read with limits."""

import asyncio
from typing import Any

from starlette.requests import Request

from config import json_files
from sensenova_cli.serve.errors import ApiError, bad_request

MAX_BODY = 256_000_000
"""Maximum number of bytes of a body."""
MAX_VALUES = 1_000_000
"""Maximum number of values in a body. Small values take up to 40 times as much memory as their text."""
MAX_DEPTH = 64
"""Maximum number of levels of lists and objects inside each other."""
MAX_DIGITS = 1000
"""Maximum number of digits of a number."""


async def read_json(request: Request) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ApiError: the body is not declared as JSON, or is not a JSON object within the limits.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Web pages of other sites can send other types without asking the browser's user.
        raise ApiError(
            415, f"the content type is {kind[:100] or 'missing'}", "wrong_content_type", hint="send application/json"
        )
    body = await request.body()
    return await asyncio.to_thread(_parse, body) if len(body) > 100_000 else _parse(body)


def parse_json(text: bytes | str) -> Any:
    """Parse JSON that a client sent.

    Raises:
        ValueError: it is not JSON, a key appears twice in an object, a number is not finite, or it exceeds a limit.
    """
    signs: tuple[Any, ...] = (b",", b"[", b"{") if isinstance(text, bytes) else (",", "[", "{")
    if sum(map(text.count, signs)) > MAX_VALUES:
        raise ValueError("it has too many values")
    content = json_files.parse_json(text, parse_int=_whole_number, parse_object=_object)
    level = [content]
    for _ in range(MAX_DEPTH):
        nested = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [each for values in nested for each in values]
    if level:
        raise ValueError("it is nested too deeply")
    return content


def _parse(body: bytes) -> dict[str, Any]:
    try:
        content = parse_json(body)
    except ValueError as error:
        raise bad_request(f"the body is not valid JSON: {str(error)[:200]}", code="invalid_json") from None
    if not isinstance(content, dict):
        raise bad_request("the body is not a JSON object", 'write it like {"prompt": "a cat"}', code="invalid_json")
    return content


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number has {len(text):,} digits")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f'"{name[:50]}" appears twice')
        content[name] = value
    return content
