"""The program in-process, on the fake engine; and a checkpoint folder that is enough for it."""

import os
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
    """How a command ended."""

    code: int
    stdout: str
    stderr: str
    stdout_bytes: bytes


@dataclass
class Program:
    """Runs commands; `engines` are the engines that were loaded, `loaded` the settings with which they were and
    `loaded_for` the requests, where they were known; `prepare` is called with each."""

    engines: list[FakeEngine] = field(default_factory=list)
    loaded: list[LoadSettings] = field(default_factory=list)
    loaded_for: list[Sequence[Request] | None] = field(default_factory=list)
    prepare: Callable[[FakeEngine], None] = lambda engine: None
    load_error: BaseException | None = None
    folder: Path | None = None
    """The checkpoint's, where the settings name one on the Hub."""

    def __call__(self, *words: str, stdin: bytes | str | None = None) -> Outcome:
        result = CliRunner().invoke(app, list(words), input=stdin)
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
        """In place of model.open_engine."""
        if self.load_error is not None:
            raise self.load_error
        on_progress(LoadProgress(1, 4))
        on_progress(LoadProgress(4, 4))
        engine = FakeEngine(self.folder or find_checkpoint(settings.model or DEMO_MODEL))
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
    """The program as a process of its own, on the fake engine; extra variables as keywords."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.cli.fake_program", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
    )
