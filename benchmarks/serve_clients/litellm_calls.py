"""Call a running `sensenova serve` with litellm: a picture, an edit, and a streamed answer about a picture.

Needs `pip install litellm`, best in an environment of its own. Prints one line for each call; fails if an answer is
wrong.

    sensenova serve --port 8642
    LITELLM_LOCAL_MODEL_COST_MAP=True python benchmarks/serve_clients/litellm_calls.py http://127.0.0.1:8642 [MODEL]
"""

import base64
import io
import json
import sys
import urllib.request
from typing import Any

import litellm  # type: ignore[import-not-found, unused-ignore]
from PIL import Image

EXTRA = {"seed": 7, "num_steps": 8}


def red_square() -> bytes:
    """Return a PNG file."""
    buffer = io.BytesIO()
    Image.new("RGB", (256, 256), (200, 20, 20)).save(buffer, "PNG")
    return buffer.getvalue()


def show(call: str, answer: str) -> None:
    """Print a line about one call."""
    print(f"{call:<40} {answer}", flush=True)


def size_of(picture: Any) -> str:
    """Return the size of a picture in an answer."""
    with Image.open(io.BytesIO(base64.b64decode(picture.b64_json))) as image:
        return f"{image.width}x{image.height}"


def main() -> None:
    """Make all calls."""
    url, *rest = sys.argv[1:]
    with urllib.request.urlopen(f"{url}/v1/models") as answer:
        served = rest[0] if rest else json.load(answer)["data"][0]["id"]
    common: dict[str, Any] = {"api_base": f"{url}/v1", "api_key": "none"}
    model = f"openai/{served}"

    made: Any = litellm.image_generation(
        prompt="a red circle", model=model, n=2, size="128x128", extra_body=EXTRA, **common
    )
    sizes = [size_of(each) for each in made.data]
    assert sizes == ["128x128", "128x128"]
    show("image_generation(n=2)", f"{sizes}, usage {made.usage.total_tokens} tokens")

    changed: Any = litellm.image_edit(
        image=io.BytesIO(red_square()), prompt="make it blue", model=model, size="128x128", extra_body=EXTRA, **common
    )
    assert size_of(changed.data[0]) == "128x128"
    show("image_edit", size_of(changed.data[0]))

    picture = {"url": f"data:image/png;base64,{base64.b64encode(red_square()).decode()}"}
    parts = [{"type": "text", "text": "What is in the picture?"}, {"type": "image_url", "image_url": picture}]
    chat: list[Any] = [{"role": "user", "content": parts}]
    plain: Any = litellm.completion(model=model, messages=chat, max_tokens=24, temperature=0, **common)
    text = plain.choices[0].message.content
    show("completion(vision)", f"{text!r}, {plain.usage.prompt_tokens} + {plain.usage.completion_tokens} tokens")

    chunks: Any = litellm.completion(
        model=model,
        messages=chat,
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        **common,
    )
    found = list(chunks)
    streamed = "".join(each.choices[0].delta.content or "" for each in found if each.choices)
    usage = next(each.usage for each in found if getattr(each, "usage", None))
    assert streamed == text and usage.completion_tokens == plain.usage.completion_tokens
    show("completion(vision, stream)", f"the same text in {len(found)} chunks, {usage.total_tokens} tokens")

    drawn: Any = litellm.completion(
        model=f"{model}-draw",
        messages=[{"role": "user", "content": "a red circle"}],
        extra_body={**EXTRA, "size": "128x128"},
        **common,
    )
    images = drawn.choices[0].message.images
    assert images[0]["image_url"]["url"].startswith("data:image/png;base64,")
    show("completion(-draw)", f"{len(images)} picture in message.images")

    try:
        litellm.image_generation(prompt="a red circle", model=model, size="100x100", **common)
    except litellm.BadRequestError as error:
        show("image_generation(size=100x100)", str(error)[:160])
    else:
        raise AssertionError("an impossible size was accepted")


if __name__ == "__main__":
    main()
