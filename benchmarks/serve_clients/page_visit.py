"""The page of `sensenova serve` in a browser, and the server behind it."""

import base64
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KEY = "a-key-for-this-run"

WATCH = """
window.seen = {previews: [], violations: []};
addEventListener("securitypolicyviolation", (event) =>
  seen.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
addEventListener("DOMContentLoaded", () => new MutationObserver(() => {
  if (shown.src.startsWith("data:") && seen.previews.at(-1) !== shown.src) seen.previews.push(shown.src);
}).observe(document.getElementById("shown"), {attributes: true, attributeFilter: ["src"]}));
"""
"""Runs before the page's script and notes previews and violations of the Content-Security-Policy."""

GIVE_FILE = """
([kind, name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)), transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type}));
  const event = kind === "drop" ? new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true})
    : new ClipboardEvent(kind, {clipboardData: transfer, bubbles: true, cancelable: true});
  document.getElementById("prompt").dispatchEvent(event);
}
"""
"""Drops or pastes a file, because Chromium offers no other way to scripts."""


@dataclass
class Visit:
    """A page in a browser, and everything that it did.

    Attributes:
        requests: addresses that the page asked for.
        bodies: requests to the model, as JSON.
        ids: ids that the server gave these requests.
        problems: errors of the page's script and messages on the console.
    """

    url: str
    page: Any
    expect: Any
    requests: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.add_init_script(WATCH)
        self.page.on("request", self._note_request)
        self.page.on("response", self._note_response)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._note_message)

    def _note_request(self, request: Any) -> None:
        self.requests.append(request.url)
        if request.url.endswith("/run"):
            self.bodies.append(json.loads(request.post_data))

    def _note_response(self, response: Any) -> None:
        if response.url.endswith("/run") and response.ok:
            self.ids.append(response.headers["x-request-id"])

    def _note_message(self, message: Any) -> None:
        # Chromium writes this line for every answer 4xx and 5xx, also for those that the page handles.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.problems.append(message.text)

    def find(self, selector: str) -> Any:
        return self.page.locator(selector)

    def fill(self, **fields: str) -> None:
        for name, value in fields.items():
            self.page.fill(f"#{name}", value)

    def shows(self, selector: str, text: str | re.Pattern[str]) -> None:
        self.expect(self.find(selector)).to_contain_text(text)

    def has(self, **fields: str) -> None:
        for name, value in fields.items():
            self.expect(self.find(f"#{name}")).to_have_value(value)

    def run(self, button: str, prompt: str) -> None:
        """Type a prompt, press a button and wait for the end."""
        self.fill(prompt=prompt)
        self.find(f"#{button}").click()
        self.finish()

    def finish(self) -> None:
        self.expect(self.find("#stop")).to_be_hidden()

    def save(self) -> tuple[str, bytes]:
        """Save the newest result. Return the name and the content of the file."""
        with self.page.expect_download() as download:
            self.find("#results a").first.click()
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    def give(self, kind: str, name: str, data: bytes, media_type: str = "image/png") -> None:
        self.page.evaluate(GIVE_FILE, [kind, name, media_type, base64.b64encode(data).decode()])

    def ask_server(self, path: str) -> Any:
        request = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def state(self, number: int = -1) -> dict[str, Any]:
        """Return the server's state of a request of this page."""
        return dict(self.ask_server(f"v1/sensenova/requests/{self.ids[number]}"))

    def pictures(self) -> list[bytes]:
        """Return the picture files of the page's last request, which the server keeps for ten minutes."""
        events = self.state()["events"]
        return [base64.b64decode(each["pictures"][0]) for each in events if each["event"] == "picture"]


def start_server(folder: Path) -> tuple[str, "subprocess.Popen[bytes]"]:
    """Start a server that needs a key, and wait until it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    key = folder / "key"
    key.write_text(KEY)
    key.chmod(0o600)
    command = [sys.executable, "-m", "sensenova_cli", "serve", "--port", str(port), "--api-key-file", str(key)]
    server = subprocess.Popen(command, env={**os.environ, "SENSENOVA_MODEL": "demo"})
    url = f"http://127.0.0.1:{port}/"
    until(lambda: server.poll() is not None or _is_ready(url), 120.0)
    if server.poll() is not None:
        raise SystemExit("the server ended; its message is above")
    return url, server


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)
