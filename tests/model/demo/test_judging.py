"""The judges accept true pictures and reject wrong ones."""

from random import Random

import pytest
import torch

from model.demo.training.judging import is_like, judge_shapes, true_image
from model.demo.training.lessons import SceneMaker
from model.demo.training.phrases import EDITS
from model.demo.training.rendering import Stage
from model.demo.training.world import COLORS, PLACES, SHAPES, Placed, Scene, Thing


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage(torch.device("cpu"))


@pytest.mark.parametrize("shape", SHAPES)
def test_true_shapes_are_accepted_and_others_rejected(shape: str, stage: Stage) -> None:
    random = Random(shape)
    for _ in range(6):
        color, background, other = random.sample(list(COLORS), 3)
        place, elsewhere = random.sample(PLACES, 2)
        scene = Scene(background, (Placed(Thing(shape, color), place),))
        verdict = judge_shapes(true_image(scene, stage), scene)
        assert verdict.look and verdict.position, scene
        moved = judge_shapes(true_image(scene.with_things(Placed(Thing(shape, color), elsewhere)), stage), scene)
        assert moved.look and not moved.position, (scene, elsewhere)
        assert not judge_shapes(true_image(scene.on(other), stage), scene).look
        assert not judge_shapes(true_image(scene.with_things(Placed(Thing(shape, other), place)), stage), scene).look
        wrong = random.choice([name for name in SHAPES if name != shape])
        assert not judge_shapes(true_image(scene.with_things(Placed(Thing(wrong, color), place)), stage), scene).look
        assert not judge_shapes(true_image(scene.with_things(), stage), scene).look


def test_two_shapes_are_judged_one_by_one(stage: Stage) -> None:
    left, right = Placed(Thing("star", "red"), "left"), Placed(Thing("ring", "blue"), "right")
    scene = Scene("white", (left, right))
    verdict = judge_shapes(true_image(scene, stage), scene)
    assert verdict.look and verdict.position
    assert not judge_shapes(true_image(scene.with_things(left), stage), scene).look
    swapped = scene.with_things(Placed(left.thing, "right"), Placed(right.thing, "left"))
    assert not judge_shapes(true_image(swapped, stage), scene).look


@pytest.mark.parametrize("kind", [*EDITS, "grayscale", "oil painting"])
def test_an_unedited_picture_is_not_like_the_result(kind: str, stage: Stage) -> None:
    scenes = SceneMaker(Random(kind), held_out=True)
    for _ in range(40):
        before, after = scenes.edited(kind)
        assert is_like(true_image(after, stage), after, stage, rather_than=before)
        assert not is_like(true_image(before, stage), after, stage, rather_than=before), (before, after)


def test_another_thing_is_not_like_the_requested_one(stage: Stage) -> None:
    scenes = SceneMaker(Random(5))
    mistaken = 0
    for _ in range(60):
        before, after = scenes.edited("replace")
        mistaken += is_like(true_image(before, stage), after, stage)
    assert mistaken <= 1
