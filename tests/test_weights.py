"""`sensenova verify` on real weights: `python -m pytest -m weights tests/test_weights.py --model FOLDER_OR_HUB_ID`."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sensenova_cli.app import app

pytestmark = pytest.mark.weights


def test_the_model_draws_the_published_pictures(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, picture = request.config.getoption("--model"), request.config.getoption("--edit-image")
    if model is None:
        pytest.skip("needs weights: --model FOLDER_OR_HUB_ID")
    for name in [name for name in os.environ if name.startswith("SENSENOVA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SENSENOVA_CONFIG_DIR", str(tmp_path / "settings"))
    words = ["verify", model, "-o", f"{tmp_path}/"]
    result = CliRunner().invoke(app, [*words, "--edit-image", picture] if picture else words, catch_exceptions=False)
    assert result.exit_code == 0, f"{result.stdout}\n{result.stderr}"
