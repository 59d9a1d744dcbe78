"""Hostile requests, and the checks that the server survives them."""

import base64
import io
import json
import resource
import struct
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from tests.serve.conftest import Served
from tests.serve.raw import error_in, exchange, post

RUN = "/v1/sensenova/run"
GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"
CHAT = "/v1/chat/completions"


def png(size: tuple[int, int] = (64, 64), color: tuple[int, int, int] = (1, 2, 3), **options: Any) -> bytes:
    """Return a PNG file."""
    return encoded("PNG", size, color, **options)


def encoded(kind: str, size: tuple[int, int] = (64, 64), color: Any = (1, 2, 3), **options: Any) -> bytes:
    """Return a picture file of a format."""
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, kind, **options)
    return buffer.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """Return a small PNG file whose header claims a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(b"\0" * 100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


def data_url(file: bytes, kind: str = "image/png") -> str:
    """Return a file as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(file).decode()}"


def edit(*urls: object) -> dict[str, Any]:
    """Return the body of an edit."""
    return {"prompt": "red", "image": list(urls)}


def chat(*urls: object) -> dict[str, Any]:
    """Return the body of a chat about pictures."""
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, *parts]}]}


def native(*urls: object) -> dict[str, Any]:
    """Return the body of a native edit."""
    images = [{"png": index} for index in range(len(urls))]
    return {"request": "edit", "prompt": "red", "images": images, "pictures": list(urls)}


def img2img(*urls: object) -> dict[str, Any]:
    """Return the body of an edit for A1111's API."""
    return {"prompt": "red", "init_images": list(urls)}


def form(*parts: tuple[str, bytes]) -> bytes:
    """Return a multipart body of parts, each with a head and content."""
    body = b"".join(b"--x\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + content + b"\r\n"
                    for head, content in parts)  # fmt: skip
    return body + b"--x--\r\n"


WITH_PICTURES = [(EDITS, edit), (CHAT, chat), (RUN, native), ("/sdapi/v1/img2img", img2img)]


def works(served: Served) -> bool:
    """Return whether the next request is answered."""
    answer = served.client().post(GENERATIONS, json={"prompt": "a cat", "num_steps": 1})
    return answer.status_code == 200 and len(answer.json()["data"]) == 1


def refused(served: Served, path: str, body: Any) -> dict[str, Any]:
    """Return the error with which a body is refused, before the engine sees it."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    before = len(served.engine.requests)
    answer = exchange(served.url, post(path, raw))
    assert answer is not None
    assert answer[0] < 500, answer
    found = error_in(answer)
    assert len(served.engine.requests) == before
    return found


def peak_memory() -> int:
    """Return the most memory that this process has used, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@pytest.fixture(autouse=True)
def survival(served: Served, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Check after each test that the next request works, and that nothing hostile made a traceback."""
    yield
    assert works(served)
    assert "Traceback" not in capfd.readouterr().err
