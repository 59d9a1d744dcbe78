"""The things that a small model knows, and whether a prompt names one of them."""

import json
from pathlib import Path

import pytest

from config.recommended import RecommendationError, read_recommended
from config.world import World
from model.checkpoint.builtin import DEMO_CHECKPOINT
from model.demo.training.known_words import known_words

WORLD = World(
    shapes={"star": (), "cross": ("plus sign",)},
    objects={"cat": ("kitten",), "cherry": (), "snowman": (), "ice cream": (), "pumpkin": ("jack-o-lantern",)},
    colors=("red",),
    others=("background",),
    edits=("bigger", "remove it"),
)


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat",
        "Two Cats, please!",
        "a KITTEN in a hat",
        "stars",
        "crosses and a plus-sign",
        "cherries",
        "snowmen",
        "an ice-cream",
        "three jack-o-lanterns",
        "an empty red background",
        "a catapult beside a cat",
    ],
)
def test_prompts_that_name_something_known(prompt: str) -> None:
    assert WORLD.knows(prompt)


@pytest.mark.parametrize("prompt", ["", "a dragon", "a catapult", "something red", "一只猫", "ice and cream", "bigger"])
def test_prompts_that_name_nothing_known(prompt: str) -> None:
    assert not WORLD.knows(prompt)


def test_instructions_may_name_only_a_color_or_a_change() -> None:
    assert all(map(WORLD.knows_edit, ["make it red", "Bigger!", "remove it", "add a cat"]))
    assert not any(map(WORLD.knows_edit, ["turn it into a dragon", "remove the dragon", ""]))


def test_the_demo_ships_the_words_of_its_training() -> None:
    """After a change of the training's words: python -m model.demo.training.known_words."""
    assert read_recommended(DEMO_CHECKPOINT).world == known_words()


def test_other_checkpoints_have_no_list(tmp_path: Path) -> None:
    assert read_recommended(tmp_path).world is None


@pytest.mark.parametrize("text", ["[]", "{", '{"shapes": {}}', '{"shapes": {"star": 3}, "objects": {}, "colors": []}'])
def test_a_damaged_list_is_an_error_of_the_checkpoint(tmp_path: Path, text: str) -> None:
    (tmp_path / "world.json").write_text(text)
    with pytest.raises(RecommendationError, match=r"world\.json"):
        read_recommended(tmp_path)


def test_an_unknown_key_of_the_list_is_named(tmp_path: Path) -> None:
    content = {"shapes": {}, "objects": {}, "colour": []}
    (tmp_path / "world.json").write_text(json.dumps(content))
    with pytest.raises(RecommendationError, match="unknown key colour; did you mean colors"):
        read_recommended(tmp_path)
