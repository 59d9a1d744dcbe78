"""Ask about pictures with LangChain: once, as a stream, and eight questions at once, in threads and with asyncio.

pip install langchain-openai
python -m benchmarks.serve_clients.langchain
"""

import asyncio
import base64
import importlib
import json
import urllib.request
from typing import Any

from benchmarks.serve_clients import serving

COLORS = ("red", "blue", "green", "yellow", "purple", "orange", "pink", "black")


def main() -> None:
    """Run the script."""
    options = serving.parser(__doc__ or "").parse_args()
    # Imported by name: LangChain is not a dependency, and its types are missing where mypy runs.
    langchain = importlib.import_module("langchain_openai")
    checks = serving.Checks()
    with serving.server(options.url) as url:
        model = langchain.ChatOpenAI(model="demo", base_url=f"{url}/v1", api_key="none", temperature=0)
        questions = [_question(_draw(url, f"a {color} circle on a white background")) for color in COLORS]
        alone = [model.invoke(question).content for question in questions]
        for color, answer in zip(COLORS, alone, strict=True):
            checks.that(color in answer, f"the {color} circle: {answer}")
        threads = [each.content for each in model.batch(questions, {"max_concurrency": 8})]
        checks.that(threads == alone, "eight questions at once, in threads, have the same answers")
        together = [each.content for each in asyncio.run(_all_at_once(model, questions))]
        checks.that(together == alone, "eight questions at once, with asyncio, have the same answers")
        streamed = "".join(chunk.content for chunk in model.stream(questions[0]))
        checks.that(streamed == alone[0], "a stream has the same answer")
        usage = model.invoke(questions[0]).usage_metadata
        checks.that(usage["input_tokens"] > 64 and usage["output_tokens"] > 0, f"usage: {usage}")
    checks.end()


async def _all_at_once(model: Any, questions: list[Any]) -> list[Any]:
    return await asyncio.gather(*(model.ainvoke(question) for question in questions))


def _question(picture: str) -> list[dict[str, Any]]:
    url = f"data:image/png;base64,{picture}"
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": parts}]


def _draw(url: str, prompt: str) -> str:
    """Return a picture as base64."""
    body = json.dumps({"prompt": prompt, "seed": 1}).encode()
    request = urllib.request.Request(f"{url}/v1/images/generations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        picture: str = json.load(answer)["data"][0]["b64_json"]
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    return picture


if __name__ == "__main__":
    main()
