"""Pictures of the demo that an earlier version made: the same command makes them still, and their records replay.

`data/cat-7.png` was made by `sensenova generate "a cute cat" --seed 7`, and `data/cat-7-green.png` by
`sensenova edit "change the background to green" --image cat-7.png`, before settings traveled as one value. Of the same
two commands with `--num-steps 4` only checksums are kept.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from config.settings import ImageSettings
from sensenova_cli.app import app
from sensenova_cli.outputs.picture_files import KEYWORD, read_record
from tests.cli.conftest import home, program
from tests.cli.harness import Program

__all__ = ["home", "program"]

DATA = Path(__file__).parent / "data"
PIXELS = {
    "cat-7.png": "0b64213bf44dcf5a64080ca4976fc338c5e0ab4b819fa0585d016c229b2f9a94",
    "cat-7-green.png": "657e8300cbd0580630e77c138b0333e8e2322c760c7ec7d9ed28bff765a539df",
}
FOUR_STEPS = {
    "cat-7.png": "0a29478fb09bd5da8bee43f0defccaaa628a701cd8927ba7559e1172762fbe15",
    "cat-7-green.png": "d988f261eff8fb15121c32d09943e670702f32ceca7a6e47619b0b5a30253f58",
}
"""SHA-256 of the pixels, as a CPU with AVX2 and no later instructions computes them."""
SIMILAR = 30.0
"""Decibels. CPUs with later instructions round bfloat16 products in another order: with AVX-512 it was 48 dB."""
ONLY_AVX2 = torch.backends.cpu.get_cpu_capability() == "AVX2"


def pixels(file: Path) -> str:
    with Image.open(file) as image:
        return hashlib.sha256(image.tobytes()).hexdigest()


def make(*flags: str) -> None:
    """Run both commands in the current folder, with these flags behind and in the number format of that version."""
    for words in (
        ["generate", "a cute cat", "--seed", "7", "-o", "cat-7.png"],
        ["edit", "change the background to green", "--image", "cat-7.png", "-o", "cat-7-green.png"],
    ):
        command = [*words, "--device", "cpu", "--dtype", "bfloat16", *flags]
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.stderr


@pytest.fixture
def demo(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, in which the demo is the model."""
    monkeypatch.delenv("SENSENOVA_MODEL")
    return home


def test_the_files_are_those_pictures() -> None:
    assert {name: pixels(DATA / name) for name in PIXELS} == PIXELS


@pytest.mark.skipif(not ONLY_AVX2, reason="the checksums are of a CPU with AVX2 and no later instructions")
def test_four_steps_make_the_same_pixels(demo: Path) -> None:
    make("--num-steps", "4")
    assert {name: pixels(demo / name) for name in FOUR_STEPS} == FOUR_STEPS


@pytest.mark.skipif(
    ONLY_AVX2 and "SLOW_PICTURES" not in os.environ,
    reason="takes minutes on a CPU without instructions for bfloat16; SLOW_PICTURES=1 runs it",
)
def test_the_same_commands_make_the_same_pixels(demo: Path) -> None:
    make()
    for name, known in PIXELS.items():
        if ONLY_AVX2:
            assert pixels(demo / name) == known
        with Image.open(demo / name) as ours, Image.open(DATA / name) as earlier:
            difference = np.asarray(ours, np.float64) - np.asarray(earlier, np.float64)
        error = np.mean(difference**2)
        assert error == 0 or 10 * np.log10(255**2 / error) > SIMILAR


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
