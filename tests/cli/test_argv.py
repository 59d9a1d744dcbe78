"""`--image` takes several values after one flag."""

from pathlib import Path

import pytest

from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.argv import spread_values


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
        ("generate --cfg-interval 0.1 0.6 x", "generate --cfg-interval 0.1 0.6 x"),
        ("generate --cfg-interval 0.1,0.6 -n 2", "generate --cfg-interval 0.1 0.6 -n 2"),
        ("generate --cfg-interval -1 .5", "generate --cfg-interval -1 .5"),
        ("generate --cfg-interval=0.1,0.6 x", "generate --cfg-interval 0.1 0.6 x"),
        ("generate --cfg-interval 0.1, 0.6 x", "generate --cfg-interval 0.1 0.6 x"),
        ("generate x --cfg-interval --help", "generate x --cfg-interval --help"),
        ("edit --image -h", "edit --image -h"),
        ("edit --prompt x.png y.png", "edit --prompt x.png y.png"),
    ],
)
def test_the_values_of_an_option_end_as_expected(typed: str, parsed: str) -> None:
    assert spread_values(typed.split()) == parsed.split()


def test_an_existing_file_is_a_picture_without_an_ending(tmp_path: Path) -> None:
    (tmp_path / "my photo").touch()
    file = str(tmp_path / "my photo")
    assert spread_values(["edit", "--image", "a.png", file]) == ["edit", "--image", "a.png", "--image", file]


def test_a_sentence_that_ends_like_a_file_name_is_a_prompt() -> None:
    words = ["edit", "--image", "a.png", "make it look like b.png"]
    assert spread_values(words) == words


def test_a_prompt_too_long_for_a_file_name_is_a_prompt() -> None:
    words = ["edit", "--image", "a.png", "x" * 5000]
    assert spread_values(words) == words


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("edit red --image", "--image needs a file"),
        ("edit red --image --num-steps 1", "--image needs a file"),
        ("generate x --cfg-interval 0.1 -o a.png", "--cfg-interval takes two numbers"),
        ("generate x --cfg-interval", "--cfg-interval takes two numbers"),
        ("generate x --cfg-interval --seed 3", "--cfg-interval takes two numbers, not --seed 3"),
        ("generate --cfg-interval=0.1 --seed 3 x", "--cfg-interval takes two numbers, not 0.1 --seed"),
        ("generate --cfg-interval 0.1 cats,dogs", "--cfg-interval takes two numbers, not 0.1 cats,dogs"),
    ],
)
def test_an_option_without_its_values_does_not_take_the_next_one(typed: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        spread_values(typed.split())
