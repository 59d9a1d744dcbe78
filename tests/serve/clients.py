"""OpenAI's Python client for the tests, and pictures in the forms that clients send."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import openai
from PIL import Image

from tests.waiting import PATIENCE

RED, BLUE = (200, 10, 10), (10, 10, 200)


def client(url: str) -> openai.OpenAI:
    """Return OpenAI's client of a server. It repeats nothing, and no proxy of the environment redirects it."""
    http = openai.DefaultHttpxClient(trust_env=False)
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE, http_client=http)


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return a picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(color: tuple[int, ...] = RED, size: tuple[int, int] = (64, 64), kind: str = "PNG") -> bytes:
    """Return the file of a picture in one color; a transparent one if the color has four parts."""
    return file_of(Image.new("RGB" if len(color) == 3 else "RGBA", size, color), kind)


def data_url(file: bytes, media_type: str = "image/png") -> str:
    """Return a file as a data URL."""
    return f"data:{media_type};base64,{base64.b64encode(file).decode()}"


def from_data_url(url: str) -> bytes:
    """Return the file in a data URL of a PNG."""
    head, _, payload = url.partition(",")
    assert head == "data:image/png;base64"
    return base64.b64decode(payload)


def opened(file: bytes | str | None) -> Image.Image:
    """Decode a file, or one in base64."""
    assert file is not None
    image = Image.open(io.BytesIO(base64.b64decode(file) if isinstance(file, str) else file))
    image.load()
    return image


def error_of(raised: Any) -> Mapping[str, Any]:
    """Return the error object of an exception of OpenAI's client."""
    assert isinstance(raised.value, openai.APIStatusError)
    body = raised.value.body
    assert isinstance(body, Mapping)
    return body


def turned_jpeg() -> bytes:
    """Return a JPEG file of 96 × 64 pixels whose EXIF data turn it into one of 64 × 96 pixels, red above blue."""
    stored = Image.new("RGB", (96, 64), RED)
    stored.paste(BLUE, (48, 0, 96, 64))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn clockwise by 90°
    return file_of(stored, "JPEG", exif=exif, quality=95)
