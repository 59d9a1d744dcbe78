"""`sensenova edit`: pictures and a prompt, sizes, seeds, and replays."""

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from config.settings import MAX_SEED
from sensenova_cli.outputs.picture_files import read_record
from tests.cli.harness import Program


@pytest.fixture
def photo(home: Path) -> Path:
    """Write a picture without a record."""
    Image.new("RGB", (300, 200), "red").save(home / "photo.jpg")
    return home / "photo.jpg"


@pytest.mark.parametrize(
    "words",
    [
        ["--image", "photo.jpg", "make it red"],
        ["make it red", "--image", "photo.jpg"],
        ["--image", "photo.jpg", "--prompt", "make it red"],
        ["--image=photo.jpg", "make it red"],
    ],
)
def test_one_picture_and_a_prompt(program: Program, photo: Path, words: list[str]) -> None:
    outcome = program("edit", *words)
    assert (outcome.code, outcome.stdout) == (0, "make-it-red-42.png\n"), outcome.stderr
    assert program.request.prompt == "make it red"
    assert [image.size for image in program.request.images] == [(300, 200)]


@pytest.mark.parametrize(
    "words",
    [
        ["--image", "photo.jpg", "b.png", "swap them"],
        ["--image", "photo.jpg", "b.png", "--prompt", "swap them"],
        ["--image", "photo.jpg", "--image", "b.png", "swap them"],
        ["swap them", "--image", "photo.jpg", "b.png", "-n", "1"],
    ],
)
def test_several_pictures_after_one_flag(program: Program, photo: Path, words: list[str]) -> None:
    Image.new("RGB", (64, 64), "blue").save("b.png")
    assert program("edit", *words).code == 0
    assert [image.size for image in program.request.images] == [(300, 200), (64, 64)]
    assert program.request.prompt == "swap them"


@pytest.mark.parametrize(
    ("words", "pictures", "prompt"),
    [
        ("photo.jpg|make it red", ["photo.jpg"], "make it red"),
        ("make it red|photo.jpg", ["photo.jpg"], "make it red"),
        ("photo.jpg|b.png|swap them", ["photo.jpg", "b.png"], "swap them"),
        ("photo.jpg|swap them|--image|b.png", ["photo.jpg", "b.png"], "swap them"),
        ("photo.jpg|-p|swap them|b.png", ["photo.jpg", "b.png"], "swap them"),
        # A prompt that is the name of a file goes last, or after -p.
        ("photo.jpg|red", ["photo.jpg"], "red"),
        ("red|photo.jpg|blue", ["red", "photo.jpg"], "blue"),
        ("--image=photo.jpg|red", ["photo.jpg"], "red"),
        ("photo.jpg|red|red", ["photo.jpg", "red"], "red"),
        ("photo.jpg|-p|b.png", ["photo.jpg"], "b.png"),
        ("photo.jpg|make it like b.png", ["photo.jpg"], "make it like b.png"),
        ("photo.jpg|" + "x" * 5000, ["photo.jpg"], "x" * 5000),
    ],
)
def test_pictures_as_bare_words(program: Program, photo: Path, words: str, pictures: list[str], prompt: str) -> None:
    Image.new("RGB", (64, 64), "blue").save("b.png")
    Image.new("RGB", (32, 32), "red").save("red", "png")
    sizes = {"photo.jpg": (300, 200), "b.png": (64, 64), "red": (32, 32)}
    outcome = program("edit", *words.split("|"))
    assert outcome.code == 0, outcome.stderr
    assert [image.size for image in program.request.images] == [sizes[name] for name in pictures]
    assert program.request.prompt == prompt


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("photo.jpg", "there is no prompt"),
        ("photo.jpg|b.png", "there is no prompt"),
        ("photo.jpg|make|it|red", "several words could be the prompt: make, it, red"),
        ("missing.png|make it red", "there is no file missing.png"),
        ("photo.jpg|make it red|-p|make it blue", "the prompt is given more than once"),
        ("make it red", "an edit needs at least one picture"),
    ],
)
def test_bare_words_without_picture_or_prompt(program: Program, photo: Path, words: str, message: str) -> None:
    Image.new("RGB", (64, 64), "blue").save("b.png")
    outcome = program("edit", *words.split("|"))
    assert outcome.code == 2 and message in outcome.stderr


def test_a_replay_with_another_picture(program: Program, photo: Path) -> None:
    program("edit", "photo.jpg", "make it red", "-o", "red.png")
    Image.new("RGB", (64, 64), "blue").save("b.png")
    assert program("edit", "b.png", "--from", "red.png", "-o", "again.png").code == 0
    assert program.request.prompt == "make it red"
    assert [image.size for image in program.request.images] == [(64, 64)]


def test_a_piped_prompt_and_a_piped_picture(program: Program, photo: Path) -> None:
    assert program("edit", "photo.jpg", stdin="make it red\n").stdout == "make-it-red-42.png\n"
    assert program("edit", "photo.jpg", "-", stdin="make it blue\n").stdout == "make-it-blue-42.png\n"
    assert program("edit", "-", "make it gray", stdin=photo.read_bytes()).stdout == "make-it-gray-42.png\n"
    assert "there is no prompt" in program("edit", "-", stdin=photo.read_bytes()).stderr


def test_a_missing_picture_after_the_flag_is_not_the_prompt(program: Program, photo: Path) -> None:
    outcome = program("edit", "--image", "photo.jpg", "missing.png", "swap them")
    assert outcome.code == 2
    assert "there is no file missing.png" in outcome.stderr


def test_the_first_pictures_aspect_gives_the_size(program: Program, photo: Path, home: Path) -> None:
    program("edit", "x", "--image", "photo.jpg", "-o", "a.png")
    assert Image.open(home / "a.png").size == (64, 64)
    Image.new("RGB", (400, 100)).save("wide.png")
    program("edit", "x", "--image", "wide.png", "-o", "b.png")
    assert Image.open(home / "b.png").size == (128, 32)


def test_a_single_side_gets_the_other_from_the_first_picture(program: Program, photo: Path) -> None:
    program("edit", "x", "--image", "photo.jpg")
    made = read_record(Path("x-42.png"))
    assert made is not None
    height = made.settings.size.split("x")[1]
    program("edit", "x", "--image", "photo.jpg", "--width", "64")
    assert program.request.settings.size == f"64x{height}"


def test_a_seed_flag_is_never_the_seed_of_an_input(program: Program, home: Path) -> None:
    program("generate", "a cat", "--seed", "7", "-o", "cat.png")
    program("edit", "a hat", "--image", "cat.png", "-o", "hat.png")
    outcome = program("edit", "--from", "hat.png", "--seed", "7", "-o", "again.png")
    assert "Using seed 8:" in outcome.stderr


def test_edit_options_reach_the_engine(program: Program, photo: Path) -> None:
    program("edit", "x", "--image", "photo.jpg", "--img-cfg-scale", "2", "--input-pixels", "native")
    assert (program.request.settings.img_cfg_scale, program.request.settings.input_pixels) == (2.0, "native")


def test_a_picture_from_standard_input(program: Program, home: Path) -> None:
    buffer = BytesIO()
    Image.new("RGB", (96, 64)).save(buffer, "PNG")
    assert program("edit", "x", "--image", "-", stdin=buffer.getvalue()).code == 0
    assert program.request.images[0].size == (96, 64)


def test_the_seed_of_an_input_is_not_used_again(program: Program, home: Path) -> None:
    program("generate", "A cat", "-o", "cat.png")
    outcome = program("edit", "add a hat", "--image", "cat.png")
    assert outcome.stdout == "add-a-hat-43.png\n"
    assert "Using seed 43: editing with the seed that made cat.png (42) would spoil the result." in outcome.stderr


def test_none_of_several_seeds_is_the_seed_of_an_input(program: Program, home: Path) -> None:
    program("generate", "A cat", "-o", "cat.png", "--seed", "44")
    assert program("edit", "x", "--image", "cat.png", "-n", "3").stdout.split() == ["x-45.png", "x-46.png", "x-47.png"]
    assert program("edit", "y", "--image", "cat.png", "-n", "2").stdout.split() == ["y-42.png", "y-43.png"]


def test_only_pictures_whose_seed_would_be_used_again_are_named(program: Program, home: Path) -> None:
    for name, seed in (("a.png", 7), ("b.png", 42), ("c.png", 43)):
        program("generate", "x", "--seed", str(seed), "-o", name)
    outcome = program("edit", "x", "--image", "a.png", "b.png", "c.png")
    assert (
        "note: Using seed 44: editing with the seed that made b.png (42) and c.png (43) would spoil" in outcome.stderr
    )


@pytest.mark.parametrize(("seed", "count"), [(MAX_SEED, 1), (MAX_SEED - 1, 2)])
def test_no_seed_is_left(program: Program, home: Path, seed: int, count: int) -> None:
    program("generate", "A cat", "-o", "cat.png", "--seed", str(MAX_SEED))
    outcome = program("edit", "x", "--image", "cat.png", "--seed", str(seed), "-n", str(count))
    assert outcome.code == 2
    assert "hint: use a smaller --seed" in outcome.stderr


def test_an_edit_is_replayed(program: Program, home: Path) -> None:
    program("generate", "A cat", "-o", "cat.png")
    program("edit", "add a hat", "--image", "cat.png", "-o", "hat.png")
    outcome = program("edit", "--from", "hat.png", "-o", "again.png")
    assert outcome.code == 0, outcome.stderr
    assert (home / "again.png").read_bytes() == (home / "hat.png").read_bytes()


def test_inputs_are_also_searched_beside_the_picture(
    program: Program, photo: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("edit", "x", "--image", "photo.jpg", "-o", "a.png")
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    outcome = program("edit", "--from", "../a.png", "-o", "b.png")
    assert outcome.code == 0, outcome.stderr
    assert Path("b.png").read_bytes() == (home / "a.png").read_bytes()


def test_a_changed_or_missing_input_is_refused(program: Program, photo: Path, home: Path) -> None:
    program("edit", "x", "--image", "photo.jpg", "-o", "a.png")
    Image.new("RGB", (300, 200), "blue").save(photo)
    outcome = program("edit", "--from", "a.png")
    assert outcome.code == 2
    assert "photo.jpg has changed since a.png was edited from it" in outcome.stderr
    photo.unlink()
    outcome = program("edit", "--from", "a.png")
    assert outcome.code == 2
    assert "photo.jpg, from which a.png was edited, does not exist" in outcome.stderr
    Image.new("RGB", (64, 64)).save("other.png")
    assert program("edit", "--from", "a.png", "--image", "other.png").code == 0


def test_from_needs_a_picture_of_the_same_command(program: Program, home: Path) -> None:
    program("generate", "A cat", "-o", "cat.png")
    outcome = program("edit", "--from", "cat.png")
    assert outcome.code == 2
    assert "hint: to make it again: sensenova generate --from cat.png" in outcome.stderr
    assert 'to change it: sensenova edit cat.png "…"' in outcome.stderr


def test_prompt_file_with_pictures_of_its_own(program: Program, photo: Path, home: Path) -> None:
    Image.new("RGB", (64, 64)).save("b.png")
    (home / "p.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two", "image": ["b.png", "photo.jpg"]}\n')
    assert program("edit", "--prompt-file", "p.jsonl", "--image", "photo.jpg").code == 0
    assert [len(request.images) for request in program.engines[-1].requests] == [1, 2]


def test_the_record_names_the_inputs_by_their_full_path(program: Program, photo: Path, home: Path) -> None:
    program("edit", "x", "--image", "./photo.jpg", "-o", "a.png")
    record = read_record(home / "a.png")
    assert record is not None
    assert [source.path for source in record.inputs] == [str(home / "photo.jpg")]
