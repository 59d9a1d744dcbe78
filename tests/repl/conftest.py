"""Sessions of the program on a fake engine, in an empty folder."""

from pathlib import Path

import pytest

from tests.cli.conftest import home, program
from tests.cli.harness import Program
from tests.repl.script import Script

__all__ = ["home", "program"]


@pytest.fixture
def script(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    monkeypatch.setenv("SENSENOVA_DATA_DIR", str(tmp_path / "data"))
    return Script(program)
