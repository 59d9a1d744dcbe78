"""A fake OpenAI-compatible endpoint, which answers every chat with a given text, or fails in a given way."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FakeEndpoint:
    """The endpoint.

    Attributes:
        url: its address, with `/v1`.
        reply: text of the next answers.
        finish: their finish reason.
        models: names of its models.
        model_list: bytes of the list of its models instead of the usual ones.
        status: status of the next chats; above 299 with `body` as the answer.
        body: bytes of the next answers instead of the usual ones.
        location: where the next chats redirect to.
        requests: bodies of the chats.
        headers: headers of all requests.
    """

    url: str = ""
    reply: str = "A cute cat with green eyes."
    finish: str = "stop"
    models: list[str] = field(default_factory=lambda: ["writer"])
    model_list: bytes | None = None
    status: int = 200
    body: bytes | None = None
    location: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def answer(self, path: str) -> bytes:
        if path == "/v1/models" and self.model_list is not None:
            return self.model_list
        if path == "/v1/models":
            return json.dumps({"data": [{"id": name} for name in self.models]}).encode()
        if self.body is not None:
            return self.body
        message = {"role": "assistant", "content": self.reply}
        return json.dumps({"choices": [{"message": message, "finish_reason": self.finish}]}).encode()


@contextmanager
def fake_endpoint() -> Iterator[FakeEndpoint]:
    """Run an endpoint on a free port."""
    fake = FakeEndpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200)

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            fake.requests.append(json.loads(content))
            self._answer(fake.status)

        def _answer(self, status: int) -> None:
            fake.headers.append(dict(self.headers))
            content = fake.answer(self.path)
            self.send_response(status)
            if fake.location:
                self.send_header("Location", fake.location)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
