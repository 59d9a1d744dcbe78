"""JSON that other people wrote, read with limits."""

import errno
import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

MAX_BYTES = 64 * 2**20
"""Maximum number of bytes of a JSON file. The index of a checkpoint of 4,000 tensors has 0.4 MB."""


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """Return the contents of a JSON file.

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError: it is not a regular file, is too long, is not JSON in UTF-8, is nested too deeply, or has a number
            that is not finite.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    if status.st_size > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    return parse_json(path.read_bytes())


def parse_json(
    content: bytes | str,
    *,
    parse_int: Callable[[str], int] | None = None,
    parse_object: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Return the value of a JSON text.

    Args:
        parse_int: reads a whole number; None for `int`.
        parse_object: makes an object of its names and values; None for `dict`.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or has a number that is not finite.
    """
    try:
        return json.loads(
            content,
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=parse_int,
            object_pairs_hook=parse_object,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:20]} is too large")
    return number
