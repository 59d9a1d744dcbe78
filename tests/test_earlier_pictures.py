"""Pictures of the demo that an earlier version made: the same command makes them still, and their records replay.

`data/cat-7.png` was made by `sensenova generate "a cute cat" --seed 7`, and `data/cat-7-green.png` by
`sensenova edit "change the background to green" --image cat-7.png`, before settings traveled as one value.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from config.schema import ImageSettings
from sensenova_cli.app import app
from sensenova_cli.metadata import KEYWORD, read_record
from tests.cli.conftest import home, program
from tests.cli.harness import Program

__all__ = ["home", "program"]

DATA = Path(__file__).parent / "data"
PIXELS = {
    "cat-7.png": "0b64213bf44dcf5a64080ca4976fc338c5e0ab4b819fa0585d016c229b2f9a94",
    "cat-7-green.png": "657e8300cbd0580630e77c138b0333e8e2322c760c7ec7d9ed28bff765a539df",
}
"""SHA-256 of the pixels, from a CPU with AVX2 and no more, on one thread."""
SIMILAR = 30.0
"""Decibels. CPUs with other instructions round bfloat16 products in another order."""


def require_pixels(made: Path, name: str) -> None:
    with Image.open(made) as ours, Image.open(DATA / name) as earlier:
        if torch.backends.cpu.get_cpu_capability() == "AVX2" and torch.get_num_threads() == 1:
            assert hashlib.sha256(ours.tobytes()).hexdigest() == PIXELS[name]
        difference = np.asarray(ours, np.float64) - np.asarray(earlier, np.float64)
        error = np.mean(difference**2)
        assert error == 0 or 10 * np.log10(255**2 / error) > SIMILAR


def test_the_files_are_those_pictures() -> None:
    for name, pixels in PIXELS.items():
        with Image.open(DATA / name) as image:
            assert hashlib.sha256(image.tobytes()).hexdigest() == pixels


def test_the_same_commands_make_the_same_pixels(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENSENOVA_MODEL")
    for words in (
        ["generate", "a cute cat", "--seed", "7", "--device", "cpu", "-o", "cat-7.png"],
        ["edit", "change the background to green", "--image", "cat-7.png", "--device", "cpu", "-o", "cat-7-green.png"],
    ):
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        require_pixels(home / words[-1], words[-1])


def test_a_record_of_an_earlier_version_replays(program: Program, home: Path) -> None:
    """Also one from before there were LoRAs, quantization and eager runs."""
    record = read_record(DATA / "cat-7.png")
    assert record is not None
    program("generate", "--from", str(DATA / "cat-7.png"))
    assert (
        program.request.settings
        == record.settings
        == ImageSettings(seed=7, size="256x256", num_steps=24, cfg_scale=2.5, max_think_tokens=64)
    )
    loaded = program.loaded[-1]
    assert (loaded.model, loaded.dtype, loaded.quantization) == ("demo", "bfloat16", "off")
    with Image.open(DATA / "cat-7.png") as image:
        content = json.loads(image.info[KEYWORD])
    assert list(content) == ["format", *record.model_dump()], "the file has the same entries in the same order"
    oldest = {key: content[key] for key in content if key not in ("lora", "quantization", "enforce_eager")}
    assert type(record).model_validate(oldest) == record
