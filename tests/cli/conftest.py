"""The program on a fake engine, in an empty folder."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensenova_cli.render import progress
from sensenova_cli.system.first_signals import SIGNALS
from sensenova_cli.system.interrupts import handle_signals
from tests.cli.harness import Program


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, no settings of the user's, and a checkpoint in the variable SENSENOVA_MODEL."""
    for name in list(os.environ):
        if name.startswith(("SENSENOVA_", "FORCE_COLOR", "NO_COLOR")):
            monkeypatch.delenv(name)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    sizes = [[64, 64], [96, 64], [64, 96], [128, 64]]
    (checkpoint / "recommended_settings.json").write_text(
        json.dumps(
            {
                "trained_sizes": sizes,
                "settings": {"num_steps": 4},
                "interleave": {"trained_sizes": [[96, 64], [64, 64]]},
            }
        )
    )
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.setenv("SENSENOVA_CONFIG_DIR", str(tmp_path / "user"))
    monkeypatch.setenv("SENSENOVA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SENSENOVA_MODEL", str(checkpoint))
    monkeypatch.setenv("COLUMNS", "100")
    # `--no-color` sets NO_COLOR; this brings it back to unset after each test.
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def program(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    """Runs commands in `home`, with signals handled as the program does. Short work prints lines of progress, too."""
    runner = Program()
    monkeypatch.setattr(progress, "SHORT_SECONDS", 0.0)
    monkeypatch.setattr("model.opening.open_engine", runner.load)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handle_signals()
    yield runner
    for number, handler in before.items():
        signal.signal(number, handler)
