"""Sessions go to a folder that is empty."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("SENSENOVA_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SENSENOVA_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"
