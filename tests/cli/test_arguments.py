"""`--image` takes several values after one flag."""

from pathlib import Path

import pytest

from sensenova_cli.arguments import spread_images


@pytest.mark.parametrize(
    ("typed", "parsed"),
    [
        ("edit --image a.png b.png --seed 1", "edit --image a.png --image b.png --seed 1"),
        ("edit --image a.png red", "edit --image a.png red"),
        ("edit --image a.png -", "edit --image a.png --image -"),
        ("edit --image a.png -n 2", "edit --image a.png -n 2"),
        ("edit --image a.png red b.png", "edit --image a.png red b.png"),
        ("run --image a b --think", "run --image a --image b --think"),
        ("describe --image a b -p x", "describe --image a --image b -p x"),
        ("--no-color run --image a b", "--no-color run --image a --image b"),
        ("edit -- --image a.png b.png", "edit -- --image a.png b.png"),
        ("edit --image", "edit --image"),
        ("edit --prompt x.png y.png", "edit --prompt x.png y.png"),
    ],
)
def test_values_end_where_people_expect(typed: str, parsed: str) -> None:
    assert spread_images(typed.split()) == parsed.split()


def test_an_existing_file_is_a_picture_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "my photo").touch()
    file = str(tmp_path / "my photo")
    assert spread_images(["edit", "--image", "a.png", file]) == ["edit", "--image", "a.png", "--image", file]


def test_a_sentence_that_ends_like_a_picture_is_a_prompt() -> None:
    words = ["edit", "--image", "a.png", "make it look like b.png"]
    assert spread_images(words) == words


def test_a_prompt_too_long_for_a_file_name_is_a_prompt() -> None:
    words = ["edit", "--image", "a.png", "x" * 5000]
    assert spread_images(words) == words
