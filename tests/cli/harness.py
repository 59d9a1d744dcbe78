"""The program on the fake engine, in this process or in a new one."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from config.settings import LoadSettings
from model import DEMO_MODEL, DownloadPlan, LoadProgress, Request, find_checkpoint
from sensenova_cli.app import app
from tests.cli.fake_engine import FakeEngine

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """Exit code and output of a command."""

    code: int
    stdout: str
    stderr: str
    stdout_bytes: bytes


@dataclass
class Program:
    """Runs commands in this process.

    Attributes:
        engines: the engines that were loaded.
        loaded: their load settings.
        loaded_for: the requests that they were loaded for; None for a session's.
        prepare: called with each new engine.
        load_error: raised instead of loading.
        folder: folder of the checkpoint if the settings name a model on the Hub.
        plan: the download that comes before loading; None without one.
    """

    engines: list[FakeEngine] = field(default_factory=list)
    loaded: list[LoadSettings] = field(default_factory=list)
    loaded_for: list[Sequence[Request] | None] = field(default_factory=list)
    prepare: Callable[[FakeEngine], None] = lambda engine: None
    load_error: BaseException | None = None
    folder: Path | None = None
    plan: DownloadPlan | None = None

    def __call__(self, *words: str, stdin: bytes | str | None = None) -> Outcome:
        result = CliRunner().invoke(app, list(words), input=stdin)
        sys.stderr.write(result.stderr)  # pytest shows it if the test fails
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr, result.stdout_bytes)

    def load(
        self,
        settings: LoadSettings,
        *,
        size: str = "auto",
        requests: Sequence[Request] | None = None,
        on_progress: Callable[[LoadProgress], None],
        on_plan: Callable[[DownloadPlan], None],
        on_download: Callable[[int, int], None],
    ) -> Any:
        """Load a fake engine; replaces model.open_engine."""
        if self.load_error is not None:
            raise self.load_error
        if self.plan is not None:
            on_plan(self.plan)
        on_progress(LoadProgress(1, 4))
        on_progress(LoadProgress(4, 4))
        engine = FakeEngine(self.folder or find_checkpoint(settings.model or DEMO_MODEL), settings.dtype)
        self.prepare(engine)
        self.engines.append(engine)
        self.loaded.append(settings)
        self.loaded_for.append(requests)
        return engine

    @property
    def request(self) -> Any:
        """The last request of the last engine."""
        return self.engines[-1].requests[-1]


def start(*words: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start the program on the fake engine in a new process; keywords are environment variables."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.cli.fake_program", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
    )


def wait_until_started(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has its first handler; before that the interpreter itself starts."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        os.sched_yield()
