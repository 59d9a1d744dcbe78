"""An empty folder for each test, without the settings of this machine."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's settings folder of this test. The current folder is another, empty one."""
    for name in list(os.environ):
        if name.startswith("SENSENOVA_"):
            monkeypatch.delenv(name)
    folder, project = tmp_path / "user", tmp_path / "project"
    (folder / "profiles").mkdir(parents=True)
    project.mkdir()
    monkeypatch.setenv("SENSENOVA_CONFIG_DIR", str(folder))
    monkeypatch.chdir(project)
    return folder
