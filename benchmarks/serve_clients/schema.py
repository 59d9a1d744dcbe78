"""Send odd requests to every operation of `/openapi.json`: none may crash the server or get an answer 500.

First, bodies that are valid but for one field; then requests that schemathesis derives from the description. It needs
`pip install schemathesis`, best in an environment of its own. Without --url, a server on a fake engine runs here.

python -m benchmarks.serve_clients.schema --schemathesis ENVIRONMENT/bin/st
python -m benchmarks.serve_clients.schema --url http://127.0.0.1:8642 --examples 20
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import httpx2

from benchmarks import harness
from sensenova_cli.serve.api_schemas import JSON, OPERATIONS, SCHEMAS
from sensenova_cli.serve.guard import Guard
from tests.serve.conftest import serving
from tests.serve.test_openapi import BODIES

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "missing_required_header",
    "unsupported_method",
    "ignored_auth",
)
"""All checks but those that a good server fails: a size is a text, but not every text is a size, and unknown values of
fields without effect are accepted with a note."""

UNKNOWN = (
    "extra_body",
    "extra_args",
    "stop",
    "tools",
    "n",
    "mask",
    "styles",
    "alwayson_scripts",
    "sampler_index",
    "scheduler",
)
"""Fields that the description does not name, but that clients send."""
ODD_VALUES: tuple[str, ...] = (
    *("null", "true", "-1", "0", "1.5", "1e308", "1e999", "NaN", "1" * 30, "1" * 5000),
    *(
        '""',
        '"x"',
        '"\\u0000"',
        '"\\ud800"',
        '"' + "a" * 70_000 + '"',
        '"<lora:a:b><image>"',
        '"data:image/png;base64,AAAA"',
    ),
    *("[]", "[null]", "[[[]]]", '["x", 1]', "{}", '{"": null}', '{"type": "text"}', "[" * 60 + "]" * 60),
    *('[{"role": "user", "content": [{"type": "image_url", "image_url": 5}]}]', '[{"role": []}]', '{"name": []}'),
)
"""Values as JSON; some of them are not allowed in any field."""


@contextmanager
def fake_server(key: str) -> Iterator[str]:
    """Run a server on a fake engine, with a key and small limits, and yield its address."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        checkpoint.mkdir()
        (checkpoint / "config.json").write_text("{}")
        (checkpoint / "recommended_settings.json").write_text('{"trained_sizes": [[64, 64]]}')
        os.environ["SENSENOVA_CONFIG_DIR"] = folder
        with serving(checkpoint, Guard(key), max_images=2, max_pixels=256 * 256, max_steps=20) as served:
            yield served.url


def properties(path: str) -> list[str]:
    """Return the fields of the JSON body of an operation."""
    name = OPERATIONS["POST", path].body[JSON]["$ref"].rpartition("/")[2]
    return [*SCHEMAS[name]["properties"], *UNKNOWN]


def send_odd_values(url: str, key: str | None) -> list[str]:
    """Send every odd value in every field. Return the requests that a server must not answer like this."""
    faults = []
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    with httpx2.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as client:
        for path, valid in BODIES.items():
            counts: Counter[int] = Counter()
            for name in properties(path):
                for value in ODD_VALUES:
                    body = dict(valid)
                    body.pop(name, None)
                    text = json.dumps(body)[:-1] + (", " if body else "") + f'"{name}": {value}}}'
                    try:
                        answer = client.post(path, content=text.encode())
                    except httpx2.HTTPError as error:
                        faults.append(f"{path} {name}={value[:60]}: no answer, {error}")
                        continue
                    counts[answer.status_code] += 1
                    is_stream = answer.headers["content-type"].startswith("text/event-stream")
                    if answer.status_code >= 500 or "unexpected" in answer.text:
                        faults.append(f"{path} {name}={value[:60]}: {answer.status_code} {answer.text[:200]}")
                    elif not is_stream and not isinstance(answer.json(), dict):
                        faults.append(f"{path} {name}={value[:60]}: not an object")
            harness.progress(f"{path}: {dict(sorted(counts.items()))}")
    return faults


def run_schemathesis(url: str, options: argparse.Namespace) -> int:
    """Run schemathesis, and return its exit status."""
    command = [options.schemathesis, "run", f"{url}/openapi.json", "--url", url, "--checks", ",".join(CHECKS)]
    command += ["--max-examples", str(options.examples), "--continue-on-failure", "--request-timeout", "60"]
    command += ["--suppress-health-check", "all", "--seed", str(options.seed)]
    if options.key:
        command += ["--header", f"Authorization: Bearer {options.key}"]
    with tempfile.TemporaryDirectory() as folder:  # for its files
        environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
        return subprocess.run([*command, *options.more], cwd=folder, env=environment).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="address of a running server")
    parser.add_argument("--key", help="key of that server")
    parser.add_argument("--schemathesis", metavar="FILE", help="the program; without it, only odd values are sent")
    parser.add_argument("--examples", type=int, default=50, metavar="N", help="requests of a kind (default: 50)")
    parser.add_argument("--seed", type=int, default=1, help="random seed of the requests (default: 1)")
    parser.add_argument("more", nargs="*", help="further arguments of schemathesis, after --")
    options = parser.parse_args()
    if not options.url:
        options.key = "a-key-for-this-run"
    with nullcontext(options.url.rstrip("/")) if options.url else fake_server(options.key) as url:
        faults = send_odd_values(url, options.key)
        for fault in faults:
            print(fault)
        status = run_schemathesis(url, options) if options.schemathesis else 0
        print(f"the server afterwards: {httpx2.get(f'{url}/health', trust_env=False).text}")
    sys.exit(1 if faults else status)


if __name__ == "__main__":
    main()
