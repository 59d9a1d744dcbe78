"""Send many mixed requests to a server, of which a quarter hang up at random, and watch its memory.

    python -m benchmarks.serve_soak --output benchmarks/results/serve_soak.json

Several clients at once send pictures, edits, chats, streams, uploads and wrong requests to a process that serves the
demo. Memory, threads and descriptors are measured after a tenth of the requests, in the middle and at the end, when no
request runs. Exits with 1 if one of them grows between the middle and the end by more than its bar, if an answer
contains a traceback or an unexpected status, if the server prints a traceback, or if it does not exit with 0.
"""

import argparse
import base64
import contextlib
import hashlib
import io
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx2
import psutil

from benchmarks import harness
from benchmarks.harness import Bar
from benchmarks.serve_clients.serving import ROOT, metric

GROWTH = 0.03
"""Most growth of the memory from the middle to the end."""
EXPECTED = (200, 201, 400, 404, 415, 503)
LONGEST_WAIT = 3.0
"""Most seconds until a client hangs up."""


class Usage(NamedTuple):
    """Memory in MB, threads and open descriptors of the server."""

    memory: float
    threads: int
    descriptors: int


@dataclass
class Outcomes:
    """Numbers of answers by status, and of clients that hung up; `faults` describes wrong answers."""

    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def picture() -> bytes:
    """Return a PNG file of random pixels."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.effect_noise((128, 128), 60).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def some_request(chance: random.Random, file: bytes) -> tuple[str, str, bytes, str]:
    """Return method, path, body and content type of a random request."""
    url = f"data:image/png;base64,{base64.b64encode(file).decode()}"
    steps, count = chance.randint(1, 4), chance.randint(1, 2)
    drawing = {"prompt": "a red circle", "size": "128x128", "num_steps": steps, "n": count}
    question = {"type": "text", "text": "What is it?"}
    about = [{"role": "user", "content": [question, {"type": "image_url", "image_url": {"url": url}}]}]
    stream = chance.random() < 0.5
    settings = {"num_steps": 3, "size": "128x128"}
    bodies: list[tuple[str, Any]] = [
        ("/v1/images/generations", {**drawing, "stream": stream, "partial_images": 2 * stream}),
        ("/v1/images/generations", {**drawing, "response_format": "url", "think": True, "max_think_tokens": 8}),
        ("/v1/images/edits", {**drawing, "n": 1, "image": [url]}),
        ("/v1/chat/completions", {"messages": about, "max_tokens": 8, "stream": stream}),
        ("/v1/chat/completions", {"messages": about, "modalities": ["image", "text"], "num_inference_steps": 2}),
        ("/v1/sensenova/run", {"request": "generate", "prompt": "x", "settings": settings, "preview_every": 1}),
        ("/sdapi/v1/txt2img", {"prompt": "x", "steps": 2, "width": 128, "height": 128}),
        ("/v1/images/generations", {"prompt": "", "size": "7x7"}),
        ("/v1/images/edits", {"prompt": "x", "image": ["http://127.0.0.1/cat.png"]}),
        ("/v1/images/generations", "not an object"),
    ]
    kind = chance.randrange(len(bodies) + 3)
    if kind < len(bodies):
        path, body = bodies[kind]
        return "POST", path, json.dumps(body).encode(), "application/json"
    if kind == len(bodies):
        part = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
        parts = [part % (b"prompt", b"", b"red"), part % (b"num_steps", b"", b"2")]
        form = b"".join([*parts, part % (b"image", b'; filename="a.png"', file), b"--x--\r\n"])
        return "POST", "/v1/images/edits", form, "multipart/form-data; boundary=x"
    if kind == len(bodies) + 1:
        return "PUT", f"/v1/sensenova/pictures/{hashlib.sha256(file).hexdigest()}", file, "image/png"
    return "GET", chance.choice(("/metrics", "/v1/models", "/health", "/v1/sensenova/info", "/none")), b"", "text/plain"


def send(url: str, chance: random.Random, outcomes: Outcomes) -> None:
    """Send one request; one client in four hangs up before its end."""
    method, path, body, kind = some_request(chance, picture())
    if chance.random() < 0.25:
        hang_up(url, method, path, body, kind, chance)
        outcomes.statuses["hung up"] += 1
        return
    with httpx2.Client(base_url=url, trust_env=False, timeout=300, verify=False) as client:
        answer = client.request(method, path, content=body, headers={"Content-Type": kind})
    outcomes.statuses[str(answer.status_code)] += 1
    if "Traceback" in answer.text or answer.status_code not in EXPECTED:
        outcomes.faults.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")


def hang_up(url: str, method: str, path: str, body: bytes, kind: str, chance: random.Random) -> None:
    """Send a request, perhaps not all of it, and close the connection after a random time."""
    parts = urlsplit(url)
    head = [f"{method} {path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Type: {kind}"]
    request = "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body
    with contextlib.closing(socket.create_connection((parts.hostname, parts.port))) as connection:
        connection.sendall(request if chance.random() < 0.8 else request[: chance.randrange(len(request))])
        time.sleep(chance.random() ** 2 * LONGEST_WAIT)


def measure(url: str, process: psutil.Process) -> Usage:
    """Return what the server uses when no request runs."""
    while metric(url, "requests_running") or metric(url, "requests_waiting"):
        time.sleep(0.2)
    time.sleep(1)
    return Usage(process.memory_info().rss / 1e6, process.num_threads(), process.num_fds())


@contextlib.contextmanager
def served(log: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Serve the demo in a process whose messages go to a file."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["serve", "--port", str(port), "--keep-memory", "4MiB", "--dtype", "float32"]
    with log.open("wb") as messages:
        process = subprocess.Popen([sys.executable, "-m", "sensenova_cli", *words], cwd=ROOT, stderr=messages)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            with contextlib.suppress(httpx2.TransportError):
                if httpx2.get(f"{url}/health", trust_env=False).status_code == 200:
                    break
            if process.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.3)
        yield url, process
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Send the requests, and print and store the result."""
    options = arguments()
    outcomes = Outcomes()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "messages"
        with served(log) as (url, process):
            watched = psutil.Process(process.pid)
            usages = []
            marks = (options.requests // 10, options.requests // 2, options.requests)
            seeds = random.Random(options.seed)
            sent = 0
            with ThreadPoolExecutor(options.clients) as pool:
                for mark in marks:
                    chances = [random.Random(seeds.random()) for _ in range(sent, mark)]
                    list(pool.map(lambda chance: send(url, chance, outcomes), chances))
                    sent = mark
                    usages.append(measure(url, watched))
                    harness.progress(f"{mark} requests: {usages[-1].memory:.0f} MB")
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
        tracebacks = log.read_text().count("Traceback")
    _, middle, end = usages
    bars = [
        Bar("memory at the end against the middle", end.memory / middle.memory, 1 + GROWTH),
        Bar("threads that were added after the middle", end.threads - middle.threads, 0),
        Bar("descriptors that were added after the middle", end.descriptors - middle.descriptors, 0),
        Bar("wrong answers", len(outcomes.faults), 0),
        Bar("tracebacks on stderr", tracebacks, 0),
        Bar("exit code after SIGTERM", code, 0),
    ]
    names = ("after a tenth", "in the middle", "at the end")
    result = {
        "requests": options.requests,
        "clients": options.clients,
        "seconds": round(time.monotonic() - began, 1),
        "usage": {name: usage._asdict() for name, usage in zip(names, usages, strict=True)},
        "answers": dict(sorted(outcomes.statuses.items())),
        "faults": outcomes.faults,
    }
    rows = [
        (name, f"{usage.memory:.0f} MB", str(usage.threads), str(usage.descriptors))
        for name, usage in zip(names, usages, strict=True)
    ]
    harness.show(harness.table("", "memory", "threads", "descriptors", rows=rows, title=f"{options.requests} requests"))
    harness.show(harness.table("answer", "number", rows=[(s, str(n)) for s, n in sorted(outcomes.statuses.items())]))
    harness.finish(options, result, harness.bars_table(bars))
    for fault in outcomes.faults[:10]:
        harness.progress(fault)
    sys.exit(0 if all(bar.met for bar in bars) else 1)


def arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    made = harness.parser(__doc__ or "")
    made.add_argument("--requests", type=int, default=500, help="number of requests (default: 500)")
    made.add_argument("--clients", type=int, default=6, help="clients that send at the same time (default: 6)")
    made.add_argument("--seed", type=int, default=1, help="seed of the random choices (default: 1)")
    return made.parse_args()


if __name__ == "__main__":
    main()
