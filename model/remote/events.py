"""Server-sent events: the lines of an answer as named JSON objects."""

import json
from collections.abc import Iterator
from typing import Any

from model.errors import ServerError
from model.remote.http import MAX_ANSWER


def read_events(parts: Iterator[bytes | None]) -> Iterator[dict[str, Any] | None]:
    """Yield the JSON objects of a stream, and None for every None in it.

    Raises:
        ServerError: an event is not a JSON object, or is too long.
    """
    rest: list[bytes] = []
    length = 0
    for part in parts:
        if part is None:
            yield None
            continue
        *lines, last = part.split(b"\n")
        for line in lines:
            whole, rest, length = b"".join([*rest, line]), [], 0
            if (event := _read_line(whole)) is not None:
                yield event
        rest.append(last)
        length += len(last)
        if length > MAX_ANSWER:
            raise ServerError(f"the server sent an event of more than {MAX_ANSWER:,} bytes", "check the address")


def _read_line(line: bytes) -> dict[str, Any] | None:
    """Return the JSON of a data line; None for other lines, since every event of ours has its name inside."""
    if not line.startswith(b"data:"):
        return None
    payload = line[5:].strip()
    if payload == b"[DONE]":
        return None
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError):
        raise ServerError(
            "the server sent an event that is not JSON", "check the address, and proxies on the way"
        ) from None
    if not isinstance(content, dict):
        raise ServerError("the server sent an event that is not a JSON object", "check the address")
    return content
