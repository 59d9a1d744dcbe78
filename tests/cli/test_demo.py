"""Where no model is configured the built-in demo is used, and says so."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from config.recommended import read_recommended
from config.sizes import format_size
from model import read_picture
from model.checkpoint.builtin import DEMO_CHECKPOINT
from model.demo.training.known_words import write_known_words
from model.demo.training.saving import RECOMMENDED
from sensenova_cli.turns.world_notices import has_plain_border
from tests.cli.harness import REPOSITORY, Program


@pytest.fixture(autouse=True)
def nothing_configured(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENSENOVA_MODEL")


def test_one_line_says_that_it_is_the_demo_and_how_to_get_the_real_one(program: Program) -> None:
    outcome = program("generate", "a cat", "-o", "cat.png")
    assert outcome.code == 0
    (line,) = [line for line in outcome.stderr.splitlines() if "note:" in line]
    assert line == (
        "note: Using the built-in demo (8 shapes, 64 objects, 256×256). "
        "For the real model: --model SenseNova/SenseNova-U1-8B-MoT (35 GB download)."
    )
    assert outcome.stdout == "cat.png\n"
    assert program.engines[0].checkpoint == DEMO_CHECKPOINT


@pytest.mark.parametrize("words", [("describe", "cat.png"), ("chat", "hello"), ("edit", "x", "--image", "cat.png")])
def test_every_task_uses_it(program: Program, words: tuple[str, ...]) -> None:
    program("generate", "a cat", "-o", "cat.png")
    outcome = program(*words)
    assert outcome.code == 0
    assert "demo loaded in" in outcome.stderr
    assert program.engines[-1].checkpoint == DEMO_CHECKPOINT


def test_its_recommended_settings_are_used(program: Program) -> None:
    program("generate", "a cat", "-o", "cat.png")
    recommended = json.loads((DEMO_CHECKPOINT / "recommended_settings.json").read_text())["settings"]
    assert program.request.settings.num_steps == recommended["num_steps"]
    assert program.request.settings.cfg_scale == recommended["cfg_scale"]
    shown = [line.split() for line in program("profile", "show").stdout.splitlines()]
    assert ["num_steps", str(recommended["num_steps"]), "checkpoint"] in shown


@pytest.mark.parametrize("words", [("-q",), ("--model", "demo")])
def test_the_line_is_for_those_who_did_not_ask_for_it(program: Program, words: tuple[str, ...]) -> None:
    outcome = program("generate", "a cat", "-o", "cat.png", *words)
    assert outcome.code == 0
    assert "built-in demo" not in outcome.stderr
    assert program.engines[0].checkpoint == DEMO_CHECKPOINT


def state_file() -> Path:
    return Path(os.environ["SENSENOVA_DATA_DIR"]) / "demo-notice"


def is_announced(program: Program, *words: str) -> bool:
    outcome = program("chat", "hello", *words)
    assert outcome.code == 0
    return "built-in demo" in outcome.stderr


def test_the_line_appears_once_a_day(program: Program) -> None:
    assert not is_announced(program, "-q")  # nobody saw it
    assert is_announced(program)
    assert not is_announced(program)
    assert state_file().stat().st_mode & 0o777 == 0o600
    state_file().write_text("2020-01-31")
    assert is_announced(program)


def test_no_place_to_note_the_day(program: Program) -> None:
    Path(os.environ["SENSENOVA_DATA_DIR"]).write_text("a file where a folder should be")
    assert is_announced(program) and is_announced(program)


def test_a_state_file_of_another_kind_is_left_alone(program: Program, home: Path) -> None:
    state_file().parent.mkdir()
    target = home / "precious"
    target.write_text("precious")
    state_file().symlink_to(target)
    assert is_announced(program) and is_announced(program)
    assert target.read_text() == "precious"
    state_file().unlink()
    state_file().write_bytes(b"\xff" * 100)
    assert is_announced(program)


def notes(program: Program, *words: str) -> list[str]:
    """Run a command quietly apart from its notes, and return them without that about the demo itself."""
    outcome = program(*words)
    assert outcome.code == 0
    lines = [line for line in outcome.stderr.splitlines() if line.startswith("note:")]
    return [line for line in lines if "built-in demo" not in line]


def test_a_prompt_about_nothing_known_gets_one_note(program: Program) -> None:
    assert notes(program, "generate", "two kittens and a dragon", "-o", "cat.png") == []
    (line,) = notes(program, "generate", "a dragon", "-o", "dragon.png")
    assert line == (
        'note: The demo knows nothing in "a dragon" and draws one of its 8 shapes and 64 objects instead; '
        "for a list of what it knows: sensenova info demo"
    )
    (line,) = notes(program, "generate", "a dragon " * 9, "-o", "long.png")
    assert '"a dragon a dragon a dragon a dragon a d…"' in line
    assert notes(program, "edit", "make it red", "--image", "cat.png", "-o", "red.png", "--seed", "9") == []
    (line,) = notes(program, "edit", "turn it into a dragon", "--image", "cat.png", "-o", "no.png", "--seed", "9")
    assert 'nothing in "turn it into a dragon"' in line


def test_a_picture_of_another_world_gets_one_note(program: Program, home: Path) -> None:
    noise = Image.effect_noise((300, 200), 100).convert("RGB")
    noise.save("photo.jpg")
    program("generate", "a cat", "-o", "cat.png")
    assert notes(program, "describe", "cat.png") == []
    (line,) = notes(program, "describe", "cat.png", "photo.jpg")
    assert "only understands pictures like its own, so its answer is a guess" in line
    (line,) = notes(program, "edit", "turn it into a dragon", "--image", "photo.jpg", "-o", "no.png")
    assert "so its edit is a guess" in line
    assert notes(program, "chat", "What is a dragon?") == []


def test_pictures_of_the_demo_have_plain_borders() -> None:
    pictures = [read_picture(file) for file in (REPOSITORY / "tests" / "data").glob("cat-7*.png")]
    assert len(pictures) >= 2 and all(map(has_plain_border, pictures))


def test_other_models_know_everything(program: Program, home: Path) -> None:
    (home / "mine").mkdir()
    (home / "mine" / "config.json").write_text("{}")
    assert notes(program, "generate", "a dragon", "-o", "dragon.png", "--model", "./mine") == []


def test_a_size_from_a_profile_is_replaced(program: Program, home: Path) -> None:
    (home / "mine.toml").write_text('size = "512x512"\n')
    (line,) = notes(program, "generate", "a cat", "--profile", "./mine.toml", "-o", "cat.png")
    assert line == "note: Using size 256x256: the demo cannot draw 512x512, which profile ./mine.toml asks for"
    assert program.request.settings.size == "256x256"
    (home / "sensenova.toml").write_text('size = "1024x1024"\n')
    (line,) = notes(program, "generate", "a cat", "-o", "cat2.png")
    assert "Using size 256x256" in line and "project file" in line
    # A size that was typed is kept; the real engine's notice says that the picture may be broken.
    assert notes(program, "generate", "a cat", "--size", "512x512", "-o", "cat3.png") == []
    assert program.request.settings.size == "512x512"


def test_an_edit_gets_a_size_that_the_demo_can_draw(program: Program, home: Path) -> None:
    Image.new("RGB", (400, 300), "red").save("wide.png")
    program("edit", "add a cat", "--image", "wide.png", "-o", "cat.png")
    sizes = [format_size(size) for size in read_recommended(DEMO_CHECKPOINT).trained_sizes]
    assert program.request.settings.size in sizes


def test_a_folder_of_that_name_is_another_model(program: Program, home: Path) -> None:
    (home / "demo").mkdir()
    (home / "demo" / "config.json").write_text("{}")
    program("generate", "a cat", "-o", "cat.png")
    assert program.engines[-1].checkpoint == DEMO_CHECKPOINT
    program("generate", "a cat", "-o", "other.png", "--model", "./demo")
    assert program.engines[-1].checkpoint == Path("demo")


def test_pictures_say_that_the_demo_made_them(program: Program, home: Path) -> None:
    (home / "demo").mkdir()  # of no importance
    program("generate", "a cat", "-o", "cat.png")
    assert json.loads(program("info", "--json", "cat.png").stdout)["model"] == "demo"
    assert program("generate", "--from", "cat.png", "-o", "again.png").code == 0
    assert (home / "again.png").read_bytes() == (home / "cat.png").read_bytes()


def test_the_demo_says_that_it_has_not_learned_answers_with_pictures(program: Program) -> None:
    outcome = program("interleave", "a picture book with a cat")
    assert "note: The demo has not learned to answer with pictures" in outcome.stderr


@pytest.fixture
def next_edition(home: Path) -> Path:
    """Return a folder with the files that say what weights of the newest training can do, without the weights."""
    folder = home / "next"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "recommended_settings.json").write_text(json.dumps(RECOMMENDED))
    write_known_words(folder)
    return folder


def test_sizes_and_abilities_come_from_the_files_of_the_checkpoint(program: Program, next_edition: Path) -> None:
    model = ("--model", str(next_edition))
    assert notes(program, "generate", "a cat", "--size", "16:9", "-o", "wide.png", *model) == []
    assert read_picture("wide.png").size == (352, 192)
    (next_edition.parent / "mine.toml").write_text('size = "320x320"\n')
    assert notes(program, "generate", "a cat", "--profile", "./mine.toml", "-o", "large.png", *model) == []
    assert program.request.settings.size == "320x320"
    assert notes(program, "interleave", "a picture book with a cat", "-o", "book/", *model) == []
    assert program.request.settings.num_steps == RECOMMENDED["interleave"]["settings"]["num_steps"]
    Image.new("RGB", (224, 320), "red").save("tall.png")
    assert notes(program, "interleave", "add a cat", "--image", "tall.png", "-o", "book/", *model) == []
    assert program.request.settings.size == "224x320"
    (line,) = notes(program, "interleave", "a picture book with a dragon", "-o", "book/", *model)
    assert 'knows nothing in "a picture book with a dragon"' in line


def test_the_notice_counts_the_sizes(program: Program, next_edition: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensenova_cli.turns.demo_notice.DEMO_CHECKPOINT", next_edition)
    outcome = program("generate", "a cat", "-o", "cat.png")
    assert "(8 shapes, 64 objects, 256×256 and 8 other sizes)" in outcome.stderr
