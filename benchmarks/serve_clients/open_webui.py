"""Use Open WebUI's server: models, pictures in three ways, edits, and chats with text and pictures.

Install it and start it without accounts and without a network:

    pip install open-webui==0.12.4
    export WEBUI_AUTH=False OFFLINE_MODE=true HF_HUB_OFFLINE=1 RAG_EMBEDDING_ENGINE=openai ENABLE_OLLAMA_API=false
    export DATA_DIR=$PWD/data OPENAI_API_BASE_URL=http://127.0.0.1:8642/v1 OPENAI_API_KEY=none
    export ENABLE_LOCAL_WEB_FETCH=true  # only for "response_format": "url", which Open WebUI does not ask for by itself
    open-webui serve --host 127.0.0.1 --port 8653
    python -m benchmarks.serve_clients.open_webui http://127.0.0.1:8653 --url http://127.0.0.1:8642
"""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from benchmarks.serve_clients import serving


def main() -> None:
    """Run the script."""
    parser = serving.parser(__doc__ or "")
    parser.add_argument("openwebui", help="address of Open WebUI, such as http://127.0.0.1:8653")
    options = parser.parse_args()
    checks = serving.Checks()
    with serving.server(options.url) as url:
        ui = _OpenWebUi(options.openwebui)
        ui.set_up_pictures(url)
        names = [each["id"] for each in ui.get("/api/models")["data"]]
        checks.that({"demo", "demo-draw"} <= set(names), f"its list of models has both names: {names}")
        checks.that(ui.post("/openai/verify", url=f"{url}/v1", key="none"), "Verify connection succeeds")
        _draw(ui, url, checks)
        _edit(ui, checks)
        _chat(ui, checks)
    checks.end()


class _OpenWebUi:
    """The API of Open WebUI, as its page uses it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._token = ""
        self._token = self.post("/api/v1/auths/signin", email="admin@localhost", password="admin")["token"]

    def open(self, path: str, fields: dict[str, Any] | None = None) -> Any:
        """Return an answer as a file."""
        body = None if fields is None else json.dumps(fields).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        return urllib.request.urlopen(urllib.request.Request(self._address + path, body, headers))

    def get(self, path: str) -> Any:
        """Return the JSON of an answer to GET."""
        with self.open(path) as answer:
            return json.load(answer)

    def post(self, path: str, **fields: Any) -> Any:
        """Return the JSON of an answer to POST."""
        with self.open(path, fields) as answer:
            return json.load(answer)

    def file(self, path: str) -> bytes:
        """Return a file."""
        with self.open(path) as answer:
            content: bytes = answer.read()
            return content

    def set_up_pictures(self, url: str, **changes: Any) -> None:
        """Choose the server for pictures and edits, as on the admin's page Images."""
        settings = self.get("/api/v1/images/config")
        chosen = {
            "ENABLE_IMAGE_GENERATION": True,
            "IMAGE_GENERATION_ENGINE": "openai",
            "IMAGE_GENERATION_MODEL": "demo",
            "IMAGE_SIZE": "256x256",
            "IMAGES_OPENAI_API_BASE_URL": f"{url}/v1",
            "IMAGES_OPENAI_API_KEY": "none",
            "IMAGES_OPENAI_API_PARAMS": {"num_steps": 8},
            "AUTOMATIC1111_BASE_URL": url,
            "ENABLE_IMAGE_EDIT": True,
            "IMAGE_EDIT_ENGINE": "openai",
            "IMAGE_EDIT_MODEL": "demo",
            "IMAGE_EDIT_SIZE": "256x256",
            "IMAGES_EDIT_OPENAI_API_BASE_URL": f"{url}/v1",
            "IMAGES_EDIT_OPENAI_API_KEY": "none",
        }
        self.post("/api/v1/images/config/update", **{**settings, **chosen, **changes})


def _draw(ui: _OpenWebUi, url: str, checks: serving.Checks) -> None:
    found = ui.post("/api/v1/images/generations", prompt="a red circle", n=2)
    checks.that(len(found) == 2 and all(_is_png(ui.file(each["url"])) for each in found), "engine OpenAI: two pictures")
    ui.set_up_pictures(url, IMAGES_OPENAI_API_PARAMS={"num_steps": 8, "response_format": "url"})
    (found,) = ui.post("/api/v1/images/generations", prompt="a red circle")
    checks.that(_is_png(ui.file(found["url"])), 'engine OpenAI with "response_format": "url": a picture')
    ui.set_up_pictures(url, IMAGE_SIZE="250x250")
    try:
        ui.post("/api/v1/images/generations", prompt="a red circle")
        message = "none"
    except urllib.error.HTTPError as error:
        message = error.read().decode()
    checks.that(message != "none", f"a wrong size is an error: {message}")
    ui.set_up_pictures(url, IMAGE_GENERATION_ENGINE="automatic1111", IMAGE_STEPS=8)
    verified = ui.post("/api/v1/images/verify", engine="automatic1111", url=url, key="")
    checks.that(verified, "engine Automatic1111: Verify connection succeeds")
    models = ui.get("/api/v1/images/models")
    checks.that([each["id"] for each in models] == ["demo"], "engine Automatic1111: its list of models")
    (found,) = ui.post("/api/v1/images/generations", prompt="a red circle", negative_prompt="blurry")
    checks.that(_is_png(ui.file(found["url"])), "engine Automatic1111: a picture")
    ui.set_up_pictures(url)


def _edit(ui: _OpenWebUi, checks: serving.Checks) -> None:
    made = ui.post("/api/v1/images/generations", prompt="a red circle", n=2)
    places = [each["url"] for each in made]
    for image, text in ((places[0], "an edit of one picture"), (places, "an edit of two pictures")):
        (found,) = ui.post("/api/v1/images/edit", image=image, prompt="make it blue")
        checks.that(_is_png(ui.file(found["url"])), text)


def _chat(ui: _OpenWebUi, checks: serving.Checks) -> None:
    words = [{"role": "user", "content": "What can you do?"}]
    deltas = list(_deltas(ui, "demo", words))
    answer = "".join(each.get("content") or "" for each in deltas)
    checks.that("draw" in answer, f"a chat streams text: {answer}")
    deltas = list(_deltas(ui, "demo-draw", [{"role": "user", "content": "a red circle"}]))
    pictures = [picture["image_url"]["url"] for each in deltas for picture in each.get("images") or ()]
    drawn = len(pictures) == 1 and _is_png(base64.b64decode(pictures[0].partition(",")[2]))
    checks.that(drawn, "a chat with demo-draw streams a picture")
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": pictures[0]}}]
    deltas = list(_deltas(ui, "demo", [{"role": "user", "content": parts}]))
    answer = "".join(each.get("content") or "" for each in deltas)
    checks.that("circle" in answer, f"a chat about that picture: {answer}")


def _deltas(ui: _OpenWebUi, model: str, messages: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield the deltas of a chat in a stream."""
    with ui.open("/api/chat/completions", {"model": model, "messages": messages, "stream": True}) as answer:
        for line in answer:
            data = line.decode().removeprefix("data: ").strip()
            if line.startswith(b"data: ") and data != "[DONE]":
                content = json.loads(data)
                yield from (choice["delta"] for choice in content.get("choices", ()))


def _is_png(content: bytes) -> bool:
    return content.startswith(b"\x89PNG")


if __name__ == "__main__":
    main()
