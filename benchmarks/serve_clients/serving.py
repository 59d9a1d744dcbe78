"""The server that the scripts of this folder use, and the lines that they print."""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with `--url`, the address of a server that runs already."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--url", help="a server that runs already; without it, the demo is served on a free port")
    return made


@contextmanager
def server(url: str | None = None) -> Iterator[str]:
    """Yield the address of a server: the given one, or one that serves the demo in float32 until the block ends.

    Raises:
        RuntimeError: the server ended before it was ready.
    """
    if url is not None:
        yield url
        return
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SENSENOVA_")}
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "sensenova_cli", "serve", "--port", "0"],
            cwd=folder,
            env={**environment, "PYTHONPATH": str(ROOT), "SENSENOVA_DTYPE": "float32", "SENSENOVA_CONFIG_DIR": folder},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield _address(process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


def metric(url: str, name: str) -> float:
    """Return one number of `/metrics`, such as `requests_total{end="cancelled"}`."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        text = answer.read().decode()
    found = re.search(rf"^sensenova_{re.escape(name)} (\S+)$", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"/metrics has no {name}")
    return float(found[1])


class Checks:
    """Prints what was checked. `failed` counts the checks that did not hold."""

    def __init__(self) -> None:
        self.failed = 0

    def that(self, holds: object, text: str) -> None:
        """Print one check."""
        self.failed += not holds
        print(f"{'ok' if holds else 'FAILED'}  {text}", flush=True)

    def end(self) -> None:
        """Exit with 1 if a check failed."""
        sys.exit(1 if self.failed else 0)


def _address(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    messages = []
    for line in process.stderr:
        messages.append(line)
        found = re.search(r"^serving .* at (http://\S+)", line)
        if found:
            return found[1]
    raise RuntimeError("the server ended:\n" + "".join(messages))
