"""A fake vLLM-Omni server. It replays the documented answers of two versions, with their quirks, on plain pictures.

`VOo` reads only the nested `extra_body` if there is one. `VO30` merges it with the root, and refuses a field that is in
both. docs/remote.md describes the requests.
"""

import base64
import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from PIL import Image

Version = Literal["VOo", "VO30"]

MODEL = "SenseNova/SenseNova-U1-8B-MoT"
EXTRAS = ("think", "cfg_scale", "cfg_norm", "timestep_shift", "t_eps", "img_cfg_scale")
TYPED = ("max_tokens", "temperature")
"""Fields of OpenAI's request. At the root the old version never hands them to the pipeline."""


class Mistake(Exception):
    """An answer with an error status: `(status, JSON)`."""


@dataclass
class FakeOmni:
    """A running fake server.

    Attributes:
        bodies: the JSON bodies of all chat requests, as they were sent.
        drawn: for each picture, the arguments that reach the pipeline.
        paths: method and path of all requests.
        headers: the headers of the last request.
        think: think text of pictures; it appears if the request asks to think.
        text: the answer to questions.
        fault: called with the pipeline's arguments; it may raise `Mistake`.
        raw: an answer to chat requests that is sent as it is: status, content type, body.
        gate: chat requests wait for it.
        started: set when a chat request has arrived.
        gone: set when a client closes its connection while its request waits.
        drops: number of chat requests whose connections are closed without an answer.
        size: the size of pictures, if it differs from the one asked for.
        key: the key that paths below /v1 need.
        is_alive: whether its engine lives.
    """

    version: Version
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    drawn: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    think: str = "A cat sits.\nIt purrs.</think>\n\n"
    text: str = "A cat on a blue background."
    fault: Any = None
    raw: tuple[int, str, bytes] | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    started: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)
    drops: int = 0
    size: tuple[int, int] | None = None
    key: str | None = None
    is_alive: bool = True

    @property
    def prompts(self) -> list[str]:
        """The text of each chat request, as the server reads it."""
        return [_prompt(body) for body in self.bodies]

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer a chat request."""
        self.bodies.append(body)
        arguments = self._arguments(body)
        pictures = _pictures(body)
        if not self.is_alive:
            details = {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}
            raise Mistake(500, {"error": details, "request_id": "chat-1", "error_stage_id": 0})
        if self.fault is not None:
            self.fault(arguments)
        prompt = _prompt(body)
        if "text" in (arguments.get("modalities") or []):
            return _completion(self.text, prompt, len(self.text.split()), None)
        image, think = self._draw(arguments, prompt, pictures)
        content = [
            {
                "type": "image_url",
                "image_url": {"url": "data:image/png;base64," + base64.b64encode(image).decode()},
                "stage_durations": {"diffusion": 1.25},
                "peak_memory_mb": 36000.0,
            }
        ]
        return _completion(content, prompt, 1, {"think_text": think})

    def _arguments(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the fields that reach the pipeline, which depend on the version."""
        root = {name: value for name, value in body.items() if name not in ("model", "messages", "extra_body")}
        nested = body.get("extra_body") or {}
        if self.version == "VOo":
            fields = dict(nested) if nested else {name: root[name] for name in root if name not in TYPED}
        else:
            if twice := sorted(root.keys() & nested.keys()):
                message = f"Diffusion request parameters were provided more than once: {', '.join(twice)}"
                raise Mistake(400, {"error": {"message": message, "type": "BadRequestError", "code": 400}})
            fields = {**root, **nested}
            if "temperature" in root:
                del fields["temperature"]
        known = ("modalities", "width", "height", "size", "seed", "num_inference_steps", "max_tokens", *EXTRAS)
        return {**{name: fields[name] for name in known if name in fields}, **(fields.get("extra_args") or {})}

    def _draw(self, arguments: dict[str, Any], prompt: str, pictures: list[bytes]) -> tuple[bytes, str | None]:
        """Make a picture of one colour. Whatever the number that is asked for, it is one picture."""
        if "size" in arguments:
            width, height = map(int, arguments["size"].split("x"))
        else:
            width, height = arguments.get("width", 2048), arguments.get("height", 2048)
        width, height = (max(32, side // 32 * 32) for side in (width, height))
        seed = arguments.get("seed", 42)
        self.drawn.append({**arguments, "prompt": prompt, "pictures": pictures, "seed": seed})
        file = io.BytesIO()
        colour = (seed % 256, len(pictures), arguments.get("num_inference_steps", 50) % 256)
        Image.new("RGB", self.size or (width, height), colour).save(file, "PNG")
        return file.getvalue(), self.think if arguments.get("think") else None


def _completion(content: Any, prompt: str, words: int, metrics: dict[str, Any] | None) -> dict[str, Any]:
    count = len(prompt.split())
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": count, "completion_tokens": words, "total_tokens": count + words},
        "metrics": metrics,
    }


def _parts(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for message in body["messages"]:
        if message["role"] == "user":
            content = message["content"]
            yield from [{"type": "text", "text": content}] if isinstance(content, str) else content


def _prompt(body: dict[str, Any]) -> str:
    """Return all text of all users' messages; other messages are dropped."""
    return " ".join(part["text"] for part in _parts(body) if part["type"] == "text")


def _pictures(body: dict[str, Any]) -> list[bytes]:
    """Return the pictures; web addresses and damaged pictures are silently ignored."""
    found = []
    for part in _parts(body):
        if part["type"] == "image_url" and part["image_url"]["url"].startswith("data:image"):
            try:
                file = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                Image.open(io.BytesIO(file)).load()
            except Exception:
                continue
            found.append(file)
    return found


@contextmanager
def serving(version: Version, port: int = 0) -> Iterator[FakeOmni]:
    """Run a fake server in a thread."""
    fake = FakeOmni(version)
    fake.gate.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: Any) -> None: ...

        def do_GET(self) -> None:
            fake.paths.append(f"GET {self.path}")
            fake.headers = dict(self.headers)
            answers: dict[str, Any] = {
                "/health": {"status": "healthy"} if fake.is_alive else None,
                "/version": {"version": "0.30.0" if fake.version == "VO30" else "0.14.1"},
                "/v1/models": {
                    "object": "list",
                    "data": [{"id": MODEL, "object": "model", "owned_by": "vllm", "root": MODEL, "parent": None}],
                },
            }
            if self._is_refused():
                return
            if self.path not in answers:
                self._send(404, {"detail": "Not Found"})
            elif answers[self.path] is None:
                self._send(503, {"detail": "engine is dead"})
            else:
                self._send(200, answers[self.path])

        def do_POST(self) -> None:
            fake.paths.append(f"POST {self.path}")
            fake.headers = dict(self.headers)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self._is_refused():
                return
            fake.started.set()
            while not fake.gate.wait(0.02):
                if self._is_gone():
                    fake.gone.set()
                    self.close_connection = True
                    return
            if fake.drops:
                fake.drops -= 1
                self.close_connection = True
                return
            if fake.raw is not None:
                status, kind, content = fake.raw
                self._send_bytes(status, kind, content)
                return
            try:
                self._send(200, fake.chat(json.loads(body)))
            except Mistake as mistake:
                self._send(*mistake.args)
            except Exception as error:  # the pipeline's errors are all answered like this one
                message = f"Image generation failed: {error}"
                self._send(500, {"error": {"message": message, "type": "InternalServerError", "code": 500}})

        def _is_refused(self) -> bool:
            if fake.key is None or not self.path.startswith("/v1"):
                return False
            if self.headers.get("Authorization") == f"Bearer {fake.key}":
                return False
            self._send(401, {"error": "Unauthorized"})
            return True

        def _is_gone(self) -> bool:
            self.connection.setblocking(False)
            try:
                return self.connection.recv(1, socket.MSG_PEEK) == b""
            except BlockingIOError:
                return False
            except OSError:
                return True
            finally:
                self.connection.setblocking(True)

        def _send(self, status: int, content: Any) -> None:
            self._send_bytes(status, "application/json", json.dumps(content).encode())

        def _send_bytes(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, address: Any) -> None: ...

    server = Server(("127.0.0.1", port), Handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.gate.set()
        server.shutdown()
        server.server_close()


if __name__ == "__main__":  # to try the program by hand: python -m tests.remote.fake_omni
    with serving("VO30", 8091) as running:
        print(running.url, flush=True)
        threading.Event().wait()
