"""Records of pictures from strangers: they set how a picture looks, and choose no model, LoRA, file or server."""

from pathlib import Path

import pytest
from PIL import Image

from config.settings import ImageSettings, LoadSettings
from sensenova_cli.outputs.picture_files import png_info
from sensenova_cli.outputs.picture_record import PictureRecord
from tests.cli.harness import Outcome, Program


def picture(model: str, lora: str | None = None, weights: str | None = None) -> None:
    """Write `theirs.png` with a record that names these."""
    record = PictureRecord(
        task="generate",
        prompt="a cat",
        settings=ImageSettings(size="64x64", seed=7, num_steps=3),
        loaded=LoadSettings(model=model, lora=lora, weights=weights),
        version="0",
    )
    Image.new("RGB", (64, 64)).save("theirs.png", pnginfo=png_info(record))


def replay(program: Program, *words: str) -> Outcome:
    return program("generate", "--from", "theirs.png", "-o", "again.png", "-f", *words)


@pytest.mark.parametrize("model", ["evil/model", "/tmp/evil", "../evil", "-rf; rm", "x" * 5000, "\x1b[2J`server=evil`"])
def test_the_model_of_a_record_is_not_loaded(program: Program, home: Path, model: str) -> None:
    picture(model)
    outcome = replay(program)
    assert outcome.code == 2 and not program.engines, outcome
    assert "was made with the model" in outcome.stderr and "--trust-record" in outcome.stderr
    assert "\x1b" not in outcome.stderr and len(outcome.stderr) < 2000
    assert not Path("again.png").exists()


def test_the_message_does_not_show_whether_a_folder_exists(program: Program, home: Path) -> None:
    messages = []
    for exists in (False, True):
        if exists:
            (home / "models").mkdir()
        picture("models")
        messages.append(replay(program).stderr)
    assert messages[0] == messages[1]


def test_a_flag_chooses_the_model(program: Program, home: Path) -> None:
    picture("evil/model")
    own = home.parent / "checkpoint"
    outcome = replay(program, "--model", str(own))
    assert outcome.code == 0, outcome.stderr
    assert program.loaded[-1].model == str(own) and program.request.settings.num_steps == 3


def test_a_trusted_record_chooses_the_model(program: Program, home: Path) -> None:
    own = home.parent / "checkpoint"
    other = own.rename(home / "other")
    picture(str(other))
    assert replay(program, "--trust-record").code == 0
    assert program.loaded[-1].model == str(other)


@pytest.mark.parametrize("lora", ["evil/lora", "/tmp/evil.safetensors:0.5"])
def test_the_lora_of_a_record_is_not_loaded(program: Program, home: Path, lora: str) -> None:
    own = str(home.parent / "checkpoint")
    picture(own, lora)
    outcome = replay(program)
    assert outcome.code == 2 and not program.engines
    assert f"was made with the LoRA {lora} (yours: none)" in outcome.stderr
    assert replay(program, "--lora", "off").code == 0
    assert program.loaded[-1].lora == "off"


@pytest.mark.parametrize("weights", ["evil/model/file.gguf", "/tmp/evil.safetensors", "x" * 5000])
def test_the_weights_of_a_record_are_not_loaded(program: Program, home: Path, weights: str) -> None:
    own = str(home.parent / "checkpoint")
    picture(own, weights=weights)
    outcome = replay(program)
    assert outcome.code == 2 and not program.engines
    assert (
        f"was made with the weights {weights[:200]}" in outcome.stderr
        and "(yours: those of the model)" in outcome.stderr
    )
    assert replay(program, "--weights", "off").code == 0
    assert program.loaded[-1].weights == "off"
    assert replay(program, "--trust-record").code == 0
    assert program.loaded[-1].weights == weights


def test_a_record_without_weights_overrides_those_of_the_user(program: Program, home: Path) -> None:
    """Otherwise the picture would be another one."""
    picture(str(home.parent / "checkpoint"))
    Path("sensenova.toml").write_text('weights = "mine.gguf"\n')
    assert replay(program).code == 0
    assert program.loaded[-1].weights_file is None


def test_only_a_replay_has_a_record_to_trust(program: Program) -> None:
    outcome = program("generate", "a cat", "--trust-record")
    assert outcome.code == 2 and "--trust-record needs --from" in outcome.stderr
