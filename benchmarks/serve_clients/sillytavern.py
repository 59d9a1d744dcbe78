"""Draw through SillyTavern's server, which is the part of it that talks to image servers.

Install it in a folder, start it, and give its address:

    npm pack sillytavern@1.19.0 && tar xzf sillytavern-1.19.0.tgz && cd package && npm install --omit=dev
    node server.js --disableCsrf --browserLaunchEnabled false --port 8651
    python -m benchmarks.serve_clients.sillytavern http://127.0.0.1:8651
"""

import base64
import json
import socket
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from benchmarks.serve_clients import serving

PICTURE = {
    "prompt": "a red circle",
    "negative_prompt": "blurry",
    "width": 256,
    "height": 256,
    "steps": 4,
    "cfg_scale": 4,
    "seed": 7,
    "batch_size": 1,
}


def main() -> None:
    """Run the script."""
    parser = serving.parser(__doc__ or "")
    parser.add_argument("sillytavern", help="address of SillyTavern, such as http://127.0.0.1:8651")
    options = parser.parse_args()
    checks = serving.Checks()
    with serving.server(options.url) as url:
        ask = _Asker(options.sillytavern, url)
        _stable_diffusion_cpp(ask, checks)
        _web_ui(ask, checks)
        _client_goes_away(ask, url, checks)
    checks.end()


class _Asker:
    """Sends requests to SillyTavern, which passes them on to the server."""

    def __init__(self, sillytavern: str, server: str) -> None:
        self.sillytavern = sillytavern
        self.server = server

    def __call__(self, path: str, **fields: Any) -> tuple[int, Any]:
        """Return the status and the content of an answer."""
        request = urllib.request.Request(
            f"{self.sillytavern}/api/sd/{path}", self.body(fields), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text.decode()

    def body(self, fields: dict[str, Any]) -> bytes:
        """Return the body of a request."""
        return json.dumps({"url": self.server, "auth": "", **fields}).encode()


def _stable_diffusion_cpp(ask: _Asker, checks: serving.Checks) -> None:
    """Use the source stable-diffusion.cpp."""
    checks.that(ask("sdcpp/ping")[0] == 200, "source stable-diffusion.cpp: Connect succeeds")
    status, models = ask("sdcpp/models")
    checks.that(status == 200 and models["data"], "its list of models has the served model")
    status, answer = ask("sdcpp/generate", model="demo", sampler_name="euler", scheduler="discrete", **PICTURE)
    checks.that(status == 200 and _has_png(answer), "it draws a picture")


def _web_ui(ask: _Asker, checks: serving.Checks) -> None:
    """Use the source Stable Diffusion WebUI."""
    checks.that(ask("ping")[0] == 200, "source Stable Diffusion WebUI: Connect succeeds")
    models = ask("models")[1]
    checks.that([each["value"] for each in models] == ["demo"], "its list of models has the served model")
    for name in ("samplers", "schedulers", "upscalers"):
        status, found = ask(name)
        checks.that(status == 200 and isinstance(found, list), f"its {name}: {found}")
    checks.that(ask("get-model")[1] == "demo", "it reads the current model")
    checks.that(ask("set-model", model="demo")[0] == 200, "it sets the current model")
    status, answer = ask(
        "generate",
        sampler_name="Euler",
        scheduler="Automatic",
        override_settings={"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"},
        override_settings_restore_afterwards=True,
        restore_faces=False,
        enable_hr=False,
        clip_skip=1,
        save_images=True,
        send_images=True,
        do_not_save_grid=False,
        do_not_save_samples=False,
        **PICTURE,
    )
    checks.that(status == 200 and _has_png(answer), "it draws a picture")


def _client_goes_away(ask: _Asker, url: str, checks: serving.Checks) -> None:
    """Close the connection to SillyTavern while a picture forms."""
    cancelled = 'requests_total{end="cancelled"}'
    before = serving.metric(url, cancelled)
    body = ask.body({**PICTURE, "steps": 200})
    address = urlsplit(ask.sillytavern)
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"POST /api/sd/generate HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        _wait(lambda: serving.metric(url, "requests_running") == 1)
    stopped = _wait(lambda: serving.metric(url, cancelled) == before + 1)
    checks.that(stopped, "if the client of SillyTavern goes away, the server counts a cancelled request")
    checks.that(serving.metric(url, "requests_running") == 0, "the model is free again")


def _wait(condition: Any) -> bool:
    end = time.monotonic() + 30
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _has_png(answer: Any) -> bool:
    return base64.b64decode(answer["images"][0]).startswith(b"\x89PNG")


if __name__ == "__main__":
    main()
