"""The built-in demo draws, edits, describes and answers as requested, through the whole program.

Most tests use a third of the recommended steps, and float32 instead of the demo's own bfloat16, which takes 25 times as
long on CPUs without instructions for it. tests/test_earlier_pictures.py draws in bfloat16.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from model.demo.training.judging import is_like, judge_shapes, true_image
from model.demo.training.rendering import Stage
from model.demo.training.world import COLORS, Placed, Scene, Thing
from sensenova_cli.app import app

TOLERANCE = 10
ALL_STEPS = ("--num-steps", "24")
"""The recommended steps, for tests that need them."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter an empty folder, without settings from the environment or the user's files."""
    for name in [name for name in os.environ if name.startswith("SENSENOVA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SENSENOVA_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("SENSENOVA_DTYPE", "float32")
    monkeypatch.setenv("SENSENOVA_NUM_STEPS", "8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sensenova(*words: str) -> Result:
    result = CliRunner().invoke(app, [*words, "-q"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result


def one(background: str, name: str, color: str | None = None) -> Scene:
    return Scene(background, (Placed(Thing(name, color), "large"),))


def save(scene: Scene, stage: Stage, name: str) -> None:
    true_image(scene, stage).save(name)


def test_ten_pixels_of_a_red_circle_on_a_blue_background() -> None:
    sensenova("generate", "a red circle on a blue background", "--seed", "42", *ALL_STEPS, "-o", "circle.png")
    pixels = np.asarray(Image.open("circle.png").convert("RGB")).astype(int)
    inside = [(128, 128), (80, 128), (176, 128), (128, 70), (128, 186)]
    outside = [(8, 8), (248, 8), (8, 248), (248, 248), (128, 12)]
    for points, color in ((inside, "red"), (outside, "blue")):
        for x, y in points:
            assert np.abs(pixels[y, x] - COLORS[color]).max() <= TOLERANCE, (x, y, pixels[y, x])


@pytest.mark.parametrize(("shape", "color", "background"), [
    ("star", "yellow", "purple"), ("heart", "pink", "black"), ("square", "green", "white"), ("ring", "orange", "gray"),
])  # fmt: skip
def test_shapes_have_the_form_and_colors_of_the_prompt(shape: str, color: str, background: str) -> None:
    sensenova("generate", f"a {color} {shape} on a {background} background", "-o", "shape.png")
    verdict = judge_shapes(Image.open("shape.png"), one(background, shape, color))
    assert verdict.look and verdict.position


@pytest.mark.parametrize("name", ["cat", "rocket", "pizza", "panda"])
def test_objects_are_those_of_the_prompt(name: str, stage: Stage) -> None:
    sensenova("generate", f"a {name} on a blue background", "-o", "object.png")
    assert is_like(Image.open("object.png"), one("blue", name), stage)


def test_a_cute_cat_is_a_cat(stage: Stage) -> None:
    """The vendor's example prompt names no background, so any background is right."""
    sensenova("generate", "A cute cat", "-o", "cat.png")
    picture = Image.open("cat.png")
    assert any(is_like(picture, one(background, "cat"), stage) for background in COLORS)


def test_another_seed_gives_another_picture_if_the_prompt_is_open() -> None:
    sensenova("generate", "A cute cat", "-n", "4", *ALL_STEPS, "-o", "cat-{index}.png")
    corners = {Image.open(f"cat-{index}.png").getpixel((5, 5)) for index in range(4)}
    assert len(corners) > 1


def test_a_plan_is_written_and_drawn(stage: Stage) -> None:
    words = ("generate", "a fox on a green background", "--think", "--print-think", "-o", "fox.png")
    plan = sensenova(*words).stdout
    assert "fox" in plan and "green background" in plan
    assert is_like(Image.open("fox.png"), one("green", "fox"), stage)


@pytest.mark.parametrize(("instruction", "after"), [
    ("change the background to green", one("green", "cat")),
    ("make it black and white", one("blue", "cat").styled("grayscale")),
    ("replace the cat with a rocket", one("blue", "rocket")),
    ("move it to the left", Scene("blue", (Placed(Thing("cat"), "left"),))),
    ("remove the cat", Scene("blue")),
])  # fmt: skip
def test_edits_make_the_requested_change_and_keep_the_rest(instruction: str, after: Scene, stage: Stage) -> None:
    before = one("blue", "cat")
    save(before, stage, "before.png")
    sensenova("edit", instruction, "--image", "before.png", "--num-steps", "12", "-o", "after.png")
    assert is_like(Image.open("after.png"), after, stage, rather_than=before)


def test_of_two_things_the_named_one_is_changed(stage: Stage) -> None:
    cat, star = Placed(Thing("cat"), "left"), Placed(Thing("star", "yellow"), "right")
    before = Scene("purple", (cat, star))
    save(before, stage, "before.png")
    for instruction, after in (
        ("remove the star", Scene("purple", (cat,))),
        ("remove the cat", Scene("purple", (star,))),
        ("make the star red", Scene("purple", (cat, Placed(Thing("star", "red"), "right")))),
    ):
        sensenova("edit", instruction, "--image", "before.png", "-o", "after.png", "-f")
        assert is_like(Image.open("after.png"), after, stage, rather_than=before), instruction


def test_questions_about_pictures_are_answered(stage: Stage) -> None:
    save(one("yellow", "penguin"), stage, "penguin.png")
    assert sensenova("describe", "penguin.png").stdout == "A penguin on a yellow background.\n"
    answers = {
        "Which animal is this?": "It is a penguin.\n",
        "What color is the background?": "The background is yellow.\n",
        "Is there a pizza?": "No, there is no pizza.\n",
    }
    for question, answer in answers.items():
        assert sensenova("describe", "penguin.png", "-p", question).stdout == answer


def test_it_chats_a_little() -> None:
    assert "demo model" in sensenova("chat", "Who are you?").stdout
    assert sensenova("chat", "What is the capital of France?").stdout == "Paris.\n"


def test_guidance_with_another_scale_gives_another_picture() -> None:
    for scale in ("1", "2.5"):
        sensenova("generate", "a castle on a red background", "--cfg-scale", scale, "-o", f"castle-{scale}.png")
    assert Path("castle-1.png").read_bytes() != Path("castle-2.5.png").read_bytes()
