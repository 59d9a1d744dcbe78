"""/compare: an edit's input and result, or two pictures, in a session."""

from pathlib import Path

import pytest
from PIL import Image

from tests.repl.script import Script


def test_the_selected_edit_is_shown_beside_its_input(script: Script) -> None:
    outcome = script("a cat", "make it blue", "/compare pair.png")
    assert outcome.code == 0 and "before: picture 1 · after: picture 2 · PSNR" in outcome.stderr
    assert outcome.stdout.splitlines()[-1] == "pair.png"
    with Image.open("pair.png") as pair:
        colors = {color for count, color in pair.convert("RGB").getcolors(100_000) if count >= 64 * 64}  # type: ignore[union-attr]
    assert len(colors) == 3  # both pictures, and the background


def test_two_pictures_and_what_differs(script: Script) -> None:
    outcome = script(
        "a cat", "/generate a cat --seed 50", "/compare 1 2", "/compare 1 2 both.png", "/before-after 1 2 both.png"
    )
    assert "seed" in outcome.stderr and "PSNR" in outcome.stderr and "picture 1" in outcome.stderr
    assert Path("both.png").exists() and "both.png exists already" in outcome.stderr


def test_a_file_is_replaced_only_with_a_flag(script: Script) -> None:
    outcome = script("a cat", "make it blue", "/compare pair.png", "/compare pair.png -f")
    assert outcome.stderr.count("exists already") == 0
    assert outcome.stdout.splitlines()[-2:] == ["pair.png", "pair.png"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("/compare", "picture 2 was not made from another picture"),
        ("/compare 1", "picture 1 was not made from another picture"),
        ("/compare 1 1", "picture 1 is compared with itself"),
        ("/compare 1 2 9", "no picture 9"),
        ("/compare 1 2 1", "up to two pictures"),
        ("/compare 1 2 a.png b.png", "up to two pictures and a file"),
        ("/compare 1 2 a.txt", "does not end in .png"),
    ],
)
def test_messages(script: Script, line: str, what: str) -> None:
    assert what in script("a cat", "/generate a dog", line).stderr


def test_the_hint_names_two_different_pictures(script: Script) -> None:
    assert "hint: name two pictures: /compare 1 2" in script("a cat", "/generate a dog", "/compare").stderr


def test_the_only_picture_has_no_other(script: Script) -> None:
    outcome = script("a cat", "/compare")
    assert "hint: this session has only one picture so far" in outcome.stderr


def test_without_pictures(script: Script) -> None:
    assert "no picture is selected" in script("/compare").stderr


def test_pictures_of_different_sizes(script: Script) -> None:
    outcome = script("a cat", "/generate a cat --size 96x64", "/compare 1 2 both.png")
    assert "the sizes differ (64x64 and 96x64)" in outcome.stderr and Path("both.png").exists()
