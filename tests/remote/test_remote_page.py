"""docs/remote.md does what it says: its commands run on a server with the demo, as they stand but for the address."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.harness import REPOSITORY
from tests.remote.fake_omni import serving
from tests.serve.conftest import serve_process

pytestmark = pytest.mark.slow
PAGE = (REPOSITORY / "docs" / "remote.md").read_text(encoding="utf-8")
SERVERS = ("pip install", "sensenova serve", "vllm serve", "ssh ")
"""Commands that run on the server's machine, or between the two."""


def commands(language: str, heading: str) -> str:
    """Return the blocks of one section."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(rf"^```{language}\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
    return "".join(line for line in "".join(blocks).splitlines(keepends=True) if not line.startswith(SERVERS))


def run(script: str, folder: Path, **environment: str) -> str:
    """Run the commands of the page, with few steps, and return what they print."""
    script = script.replace("sensenova repl", "echo a cat | sensenova repl")
    script = script.replace("sensenova bench", "sensenova bench --size 32x32 --steps 1")
    done = subprocess.run(
        ["bash", "-c", f'set -e\nsensenova() {{ {sys.executable} -m sensenova_cli "$@"; }}\n{script}'],
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("SENSENOVA_")},
            "PYTHONPATH": str(REPOSITORY),
            "SENSENOVA_CONFIG_DIR": str(folder / "user"),
            "SENSENOVA_DATA_DIR": str(folder / "data"),
            "SENSENOVA_DTYPE": "float32",
            "SENSENOVA_NUM_STEPS": "2",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_sensenova_serve(tmp_path: Path) -> None:
    run(commands("bash", "Quick start: `sensenova serve`").split("export")[0], tmp_path)
    words = ("--api-key-file", str(tmp_path / "server.key"))
    with serve_process(tmp_path, *words, SENSENOVA_NUM_STEPS="2") as server:
        client = "export" + commands("bash", "Quick start: `sensenova serve`").split("export")[1]
        printed = run(client.replace("http://gpu-box:8642", server.url), tmp_path)
        assert "model: demo" in printed and "green.png" in printed and "16 clients" in printed
        printed = run(commands("bash", "A server on this machine").replace(" -o cat", " -o local"), tmp_path)
        assert printed == "local.png\n"
        without = commands("bash", "Without the option").replace("http://gpu-box:8642", server.url)
        key = (tmp_path / "server.key").read_text().strip()
        assert run(without, tmp_path, SENSENOVA_SERVER_KEY=key) == "cute.png\nhere.png\n"
        (tmp_path / "user").mkdir()
        lines = commands("toml", "Without the option").replace("http://gpu-box:8642", server.url)
        (tmp_path / "user" / "config.toml").write_text(lines.replace("~", str(tmp_path)))
        assert "draw shapes" in run('sensenova chat "What can you do?"', tmp_path)


def test_vllm_omni(tmp_path: Path) -> None:
    with serving("VO30") as fake:
        client = commands("bash", "Quick start: vLLM-Omni").replace("http://127.0.0.1:8091", fake.url)
        assert run(client, tmp_path, SENSENOVA_SIZE="64x64") == "cat.png\n"
        assert fake.drawn[0]["prompt"] == "A cute cat"
