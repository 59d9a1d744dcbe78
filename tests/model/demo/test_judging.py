"""The judges accept true pictures and reject wrong ones."""

from random import Random

import numpy as np
import pytest

from config.sizes import Size
from model.demo.training.judging import closest, differ, edited_result, is_like, judge_shapes, psnr, true_image
from model.demo.training.phrases import EDITS
from model.demo.training.reading import said
from model.demo.training.rendering import Stage
from model.demo.training.scenes import SceneMaker
from model.demo.training.stories import Page, Story, StoryTeller
from model.demo.training.story_judging import judge_story
from model.demo.training.world import ALONE, COLORS, SEVERAL, SHAPES, SIZES, Placed, Scene, Thing


@pytest.mark.parametrize("shape", SHAPES)
def test_true_shapes_are_accepted_and_others_rejected(shape: str, stage: Stage) -> None:
    random = Random(shape)
    for _ in range(6):
        color, background, other = random.sample(list(COLORS), 3)
        place, elsewhere = random.sample(ALONE, 2)
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
    for _ in range(12):
        before, after = scenes.edited(kind)
        wanted = edited_result(before, after)
        assert is_like(true_image(after, stage), wanted, stage, rather_than=before)
        assert not is_like(true_image(before, stage), wanted, stage, rather_than=before), (before, after)


def test_another_thing_is_not_like_the_requested_one(stage: Stage) -> None:
    scenes = SceneMaker(Random(5))
    mistaken = 0
    for _ in range(40):
        before, after = scenes.edited("replace")
        mistaken += is_like(true_image(before, stage), after, stage)
    assert mistaken <= 1


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pictures_of_every_size_are_judged(size: Size, stage: Stage) -> None:
    star, ring = Thing("star", "red"), Thing("ring", "blue")
    for placed in (
        (Placed(star, "large", 2),),
        (Placed(star, "left", 1), Placed(ring, "right", 0)),
        tuple(Placed(star, place, 1) for place in SEVERAL[3]),
    ):
        scene = Scene("yellow", placed, shade=1)
        picture, wanted = true_image(scene, stage, size), scene.in_any_shade
        assert picture.size == size
        verdict = judge_shapes(picture, wanted)
        assert verdict.look and verdict.position, (size, scene)
        assert is_like(picture, wanted, stage)
        assert closest(picture, wanted, stage)[0] == scene
        fewer = true_image(scene.with_things(*placed[:-1]), stage, size)
        assert not is_like(fewer, wanted, stage) and not judge_shapes(fewer, wanted).look
    two, three = (Scene("yellow", tuple(Placed(star, place) for place in SEVERAL[count])) for count in (2, 3))
    assert not is_like(true_image(two, stage, size), three, stage)
    assert not is_like(true_image(three, stage, size), two, stage)


def test_what_a_prompt_leaves_open_may_be_anything(stage: Stage) -> None:
    scene = Scene("green", (Placed(Thing("cat"), "left"),), shade=2)
    picture = true_image(scene, stage)
    asked = Scene("red", (Placed(Thing("cat"), "large"),))
    assert is_like(picture, asked, stage, open_to=("place", "background"))
    assert closest(picture, asked, stage, ("place", "background"))[0] == scene
    assert not is_like(picture, asked, stage, open_to=("place",))
    assert not is_like(picture, asked, stage, open_to=("background",))
    dog = Scene("red", (Placed(Thing("dog"), "large"),))
    assert not is_like(picture, dog, stage, open_to=("place", "background"))
    ring = true_image(Scene("green", (Placed(Thing("ring", "pink"), "bottom", 1),)), stage)
    any_ring = Scene("green", (Placed(Thing("ring", "blue"), "large"),))
    assert judge_shapes(ring, any_ring, ("place", "colors")).look
    assert is_like(ring, any_ring, stage, open_to=("place", "colors"))
    assert not judge_shapes(ring, any_ring, ("place",)).look
    assert not is_like(ring, any_ring, stage, open_to=("place",))


def test_an_edit_keeps_the_shades_of_everything_else(stage: Stage) -> None:
    before = Scene("blue", (Placed(Thing("star", "red"), "large", 1),), shade=2)
    after = before.with_things(Placed(Thing("star", "pink"), "large", 0))
    wanted = edited_result(before, after)
    for shade in range(3):
        right = before.with_things(Placed(Thing("star", "pink"), "large", shade))
        assert is_like(true_image(right, stage), wanted, stage, rather_than=before)
    assert not is_like(true_image(after.on("blue", 0), stage), wanted, stage, rather_than=before)


def test_seeds_differ_to_the_eye_by_place_or_shade(stage: Stage) -> None:
    cat = Placed(Thing("cat"), "large")
    pictures = [
        true_image(Scene(background, (cat,), shade=shade), stage)
        for background in ("purple", "yellow")
        for shade in range(3)
    ]
    pictures.append(true_image(Scene("purple", (Placed(Thing("cat"), "small"),), shade=0), stage))
    assert all(differ(one, other) for one in pictures for other in pictures if one is not other)
    noise = np.random.default_rng(0).normal(0, 5, (256, 256, 3))
    noisy = np.clip(np.asarray(pictures[0]) + noise, 0, 255)
    assert psnr(noisy, np.asarray(pictures[0])) > 30


def shown(story: Story, stage: Stage) -> list:
    return [true_image(page.scene, stage) for page in story.pages]


def test_true_stories_are_right_and_others_are_not(stage: Stage) -> None:
    random = Random(6)
    teller = StoryTeller(random, SceneMaker(random))
    for number in range(6):
        story = teller.listing() if number % 2 else teller.change()
        while len(story.pages) < 2:
            story = teller.listing()
        texts, pictures = [page.text for page in story.pages], shown(story, stage)
        verdict = judge_story(texts, pictures, story, stage)
        assert verdict.order and all(verdict.shown) and all(verdict.kept), story
        fewer = judge_story(texts[:-1], pictures[:-1], story, stage)
        assert not fewer.order and fewer.shown == (*[True] * (len(pictures) - 1), False)
        turned = judge_story(texts[::-1], pictures[::-1], story, stage)
        assert not turned.order and all(turned.shown)
        others = judge_story(texts, [true_image(Scene("white"), stage) for _ in pictures], story, stage)
        assert others.order and not any(others.shown)
    assert not any(judge_story(["Hello."] * len(pictures), pictures, story, stage).shown)


def test_a_changed_picture_keeps_its_background(stage: Stage) -> None:
    first = Scene("blue", (Placed(Thing("star", "red"), "large", 0),), shade=0)
    second = first.with_things(Placed(Thing("star", "pink"), "large", 0))
    pages = Page("Here is a red star.", first), Page("Now there is a pink star.", second)
    story = Story("show a red star, then make it pink", "", pages)
    texts = [page.text for page in pages]
    assert judge_story(texts, shown(story, stage), story, stage).kept == (True,)
    elsewhere = [true_image(first, stage), true_image(second.on("green"), stage)]
    verdict = judge_story(texts, elsewhere, story, stage)
    assert verdict.kept == (False,) and all(verdict.shown)
    assert judge_story([], [], story, stage).kept == (False,)


def test_the_models_own_words_are_read() -> None:
    cat = said("Here is a small cat on a red background.")
    assert cat is not None and cat.scene == Scene("red", (Placed(Thing("cat"), "small"),)) and not cat.open
    circles = said("Then come three blue circles.")
    assert circles is not None and circles.open == {"background"}
    assert circles.scene.placed == tuple(Placed(Thing("circle", "blue"), place) for place in SEVERAL[3])
    both = said("Now there is an orange star on the left and ice cream, no, an ice cream on the right.")
    assert both is not None and [each.thing.name for each in both.scene.placed] == ["star", "ice cream"]
    assert said("The end.") is None
    random = Random(9)
    teller = StoryTeller(random, SceneMaker(random))
    for page in (page for _ in range(100) for page in teller.story().pages):
        words = said(page.text)
        assert words is not None
        assert [each.thing for each in words.scene.placed] == [each.thing for each in page.scene.placed]
        assert "background" in words.open or words.scene.background == page.scene.background
        assert "place" in words.open or [p.place for p in words.scene.placed] == [p.place for p in page.scene.placed]
