"""Read server-sent events: the lines of an answer become JSON objects with names."""

import json
from collections.abc import Iterator
from typing import Any

from model.remote.failures import DamagedAnswerError
from model.remote.http import MAX_ANSWER

ERROR = "error"
"""Name of the event that ends a failed request."""


def read_events(parts: Iterator[bytes | None]) -> Iterator[dict[str, Any] | None]:
    """Yield the JSON objects of a stream, and None for every None in it. Each has its name as the field `event`.

    Raises:
        DamagedAnswerError: a line or an event is not as our server writes it, or is too long.
    """
    reader = _Reader()
    for line in _lines(parts):
        if line is None:
            yield None
        elif (event := reader.read(line)) is not None:
            yield event


class _Reader:
    """Reads events line by line. Our server writes each as a name, one line of data, and an empty line."""

    def __init__(self) -> None:
        self._name = ""

    def read(self, line: bytes) -> dict[str, Any] | None:
        """Return the event of a data line; None for other lines."""
        if line.startswith(b":"):  # a comment
            return None
        if not line:
            if self._name:
                raise _damaged("an event without data")
            return None
        if line.startswith(b"event: ") and not self._name:
            self._name = line[7:].decode("utf-8", "replace")
            return None
        if not line.startswith(b"data: "):
            raise _damaged("a line that is not part of an event")
        name, self._name = self._name, ""
        content = _parse(line[6:])
        if not name and ERROR in content:  # the server failed outside of an event
            return {"event": ERROR, **content}
        if content.get("event") != name:
            raise _damaged("an event under a wrong name")
        return content


def _lines(parts: Iterator[bytes | None]) -> Iterator[bytes | None]:
    rest: list[bytes] = []
    length = 0
    for part in parts:
        if part is None:
            yield None
            continue
        *lines, last = part.split(b"\n")
        for line in lines:
            whole, rest, length = b"".join([*rest, line]), [], 0
            yield whole.removesuffix(b"\r")
        rest.append(last)
        length += len(last)
        if length > MAX_ANSWER:
            raise _damaged(f"an event of more than {MAX_ANSWER:,} bytes")
    if length:
        raise _damaged("an incomplete event")


def _parse(payload: bytes) -> dict[str, Any]:
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError):
        raise _damaged("an event that is not JSON") from None
    if not isinstance(content, dict):
        raise _damaged("an event that is not a JSON object")
    return content


def _damaged(part: str) -> DamagedAnswerError:
    return DamagedAnswerError(f"the server sent {part}", "check the address, and proxies on the way")
