"""One command line, run on the fake engine in this process and then on a server, in the same folder."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from model import find_checkpoint
from sensenova_cli.serve.guard import Guard
from sensenova_cli.turns.demo_notice import SHOWN_FILE
from sensenova_cli.turns.measurements import FILE as MEASUREMENTS
from tests.cli.harness import Outcome, Program
from tests.serve.conftest import Served, serving

TIMES = ("seconds", "when", "load_seconds")
"""Fields of results and session logs that differ between any two runs."""


@dataclass(frozen=True)
class Run:
    """What a command has left.

    Attributes:
        outcome: its exit code and output.
        files: all files below the current folder and the data folder.
    """

    outcome: Outcome
    files: dict[str, bytes]

    @property
    def comparable(self) -> tuple[int, Any, dict[str, Any]]:
        """Exit code, stdout and files, without times."""
        stdout: Any = self.outcome.stdout_bytes
        if stdout.startswith(b"{"):
            stdout = without_times(stdout)
        return self.outcome.code, stdout, comparable_files(self.files)


class Both:
    """Runs commands on both engines.

    Attributes:
        served: the server.
        prepare: called with each engine before a command runs: the local one, and the server's.
    """

    def __init__(self, folder: Path, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.served = served
        self.prepare: Callable[[Any], None] = lambda engine: None
        self._monkeypatch = monkeypatch

    def __call__(self, *words: str, stdin: str | None = None) -> tuple[Run, Run]:
        """Run a command locally, then with `--server`; the folders are as before for the second run."""
        before = files_in(self.folder)
        with self._monkeypatch.context() as patched:
            program = Program(folder=find_checkpoint("demo"))
            program.prepare = self.prepare
            patched.setattr("model.opening.open_engine", program.load)
            local = self._run(program, words, stdin)
        restore(self.folder, before)
        on_step = self.served.engine.on_step
        self.prepare(self.served.engine)
        command, *rest = words
        remote = self._run(Program(), (command, "--server", self.served.url, *rest), stdin)
        self.served.engine.on_step = on_step
        return local, remote

    def _run(self, program: Program, words: tuple[str, ...], stdin: str | None) -> Run:
        outcome = program(*words, stdin=stdin)
        return Run(outcome, files_in(self.folder))


@pytest.fixture
def both(home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs commands on both engines, with the demo's card and an empty folder."""
    monkeypatch.delenv("SENSENOVA_MODEL")
    monkeypatch.setenv("SENSENOVA_DATA_DIR", str(home / "data"))
    with serving(find_checkpoint("demo"), Guard()) as served:
        yield Both(home, served, monkeypatch)


def files_in(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files below a folder, except those with times: the note that the demo's notice was
    shown today, measurements, and the log."""
    with_times = (SHOWN_FILE, MEASUREMENTS)
    files = (each for each in folder.rglob("*") if each.is_file() and each.name not in with_times)
    files = (each for each in files if each.parent.name != "log")
    return {str(each.relative_to(folder)): each.read_bytes() for each in files}


def restore(folder: Path, files: dict[str, bytes]) -> None:
    """Make a folder contain these files only."""
    for each in folder.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def comparable_files(files: dict[str, bytes]) -> dict[str, Any]:
    """Return files without times. The history of prompts and the lock contain nothing else."""
    found: dict[str, Any] = {}
    for name, content in files.items():
        if Path(name).name in ("history", "session.lock"):
            continue
        found[name] = without_times(content) if name.endswith((".jsonl", ".json")) else content
    return found


def without_times(lines: bytes) -> list[Any]:
    """Return JSON lines without the fields that are times. A session is opened before a server names its model."""
    entries = [json.loads(line) for line in lines.decode().splitlines()]
    return [
        {
            name: value
            for name, value in entry.items()
            if name not in TIMES and not (name == "model" and entry.get("kind") == "opened")
        }
        for entry in entries
    ]


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a process that uses no settings of the user."""
    inherited = {name: value for name, value in os.environ.items() if not re.match("SENSENOVA_|FORCE_COLOR", name)}
    return {
        **inherited,
        "SENSENOVA_CONFIG_DIR": str(folder / "user"),
        "SENSENOVA_DATA_DIR": str(folder / "data"),
        "SENSENOVA_DTYPE": "float32",
    }
