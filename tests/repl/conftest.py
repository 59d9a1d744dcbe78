"""Fixtures: an empty data folder for sessions, and sessions on a fake engine."""

import os
from pathlib import Path

import pytest

from tests.cli.conftest import home, program
from tests.cli.harness import Program
from tests.repl.script import Script

__all__ = ["home", "program"]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("SENSENOVA_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SENSENOVA_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def script(data: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> Script:
    monkeypatch.setenv("SENSENOVA_DATA_DIR", str(data))  # `home` has removed it
    return Script(program)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
