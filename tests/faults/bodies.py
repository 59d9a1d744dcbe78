"""Damaged HTTP bodies for a server on a fake engine: each one is answered, and never with an error of the server."""

import base64
import http.client
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from sensenova_cli.serve.guard import Guard
from tests.faults.mutations import damaged
from tests.serve.conftest import serving

JSON, FORM = "application/json", "multipart/form-data; boundary=x"
SECONDS = 60.0
"""Time after which a body counts as one that hangs the server."""


def _picture() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((16, 12)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = _picture()
URL = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"


def _form(**fields: str | bytes) -> bytes:
    parts = b""
    for name, value in fields.items():
        file = '; filename="a.png"\r\nContent-Type: image/png' if isinstance(value, bytes) else ""
        content = value if isinstance(value, bytes) else value.encode()
        parts += f'--x\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"
    return parts + b"--x--\r\n"


def _json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


BODIES: tuple[tuple[str, str, bytes], ...] = (
    ("/v1/images/generations", JSON, _json(prompt="a cat", n=1, size="64x64", seed=3, extra_body={"num_steps": 1})),
    ("/v1/images/edits", JSON, _json(prompt="red", num_steps=1, images=[URL])),
    ("/v1/images/edits", FORM, _form(prompt="red", n="1", image=PICTURE, num_steps="1")),
    ("/v1/chat/completions", JSON, _json(messages=[{"role": "user", "content": "Hello"}], max_tokens=3)),
    (
        "/v1/chat/completions",
        JSON,
        _json(
            messages=[
                {"role": "system", "content": "short"},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": URL}}],
                },
            ]
        ),
    ),
    ("/v1/sensenova/run", JSON, _json(request="edit", prompt="red", pictures=[URL], images=[{"png": 0}])),
    ("/sdapi/v1/txt2img", JSON, _json(prompt="a cat", steps=1, width=64, height=64)),
    ("/sdapi/v1/img2img", JSON, _json(prompt="red", steps=1, init_images=[URL])),
    ("/sdapi/v1/options", JSON, _json(sd_model_checkpoint="demo")),
)
"""Path, content type and valid body."""


def send_damaged(count: int, seed: int, checkpoint: Path) -> Iterator[tuple[str, str, str]]:
    """Start a server and send it damaged bodies.

    Yields:
        The path, the first bytes of the body, and what is wrong with the answer; empty if nothing is.
    """
    chance = random.Random(seed)
    with serving(checkpoint, Guard()) as served:
        address = urlsplit(served.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=SECONDS)
        for number in range(count):
            path, kind, valid = BODIES[number % len(BODIES)]
            body = damaged(valid, chance)
            try:
                connection.request("POST", path, body, {"Content-Type": kind})
                answer = connection.getresponse()
                content = answer.read()
                problem = f"{answer.status} {content[:300]!r}" if answer.status >= 500 else ""
            except TimeoutError:
                problem = "no answer"
            except (OSError, http.client.HTTPException) as error:
                problem = f"no answer: {error!r}"
            if problem:
                connection.close()
            yield path, repr(body[:300]), problem
        connection.close()
