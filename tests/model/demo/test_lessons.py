"""Scenes, their pictures and the words about them."""

from random import Random

import pytest
import torch

from model.demo.training.counting import plural
from model.demo.training.phrases import Speaker, caption
from model.demo.training.rendering import Stage, center, longer_side, scene_code
from model.demo.training.scenes import SceneMaker
from model.demo.training.stories import THE_END, StoryTeller
from model.demo.training.world import (
    ALONE,
    COLORS,
    FRESH_COLORS,
    PLACES,
    SEVERAL,
    SHADES,
    SIZES,
    Placed,
    Scene,
    Thing,
    shade,
)


def test_shades_are_nearer_to_their_own_color_than_to_any_other() -> None:
    for color in COLORS:
        for number in range(SHADES):
            red, green, blue = shade(color, number)
            distances = {
                name: (red - r) ** 2 + (green - g) ** 2 + (blue - b) ** 2 for name, (r, g, b) in COLORS.items()
            }
            nearest, second = sorted(distances, key=lambda name: distances[name])[:2]
            assert nearest == color and distances[second] > 1.5 * distances[color] + 100
        assert len({shade(color, number) for number in range(SHADES)}) == SHADES


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_things_of_a_picture_are_inside_and_do_not_overlap(size: tuple[int, int]) -> None:
    assert size[0] % 32 == size[1] % 32 == 0
    groups = [(place,) for place in PLACES] + [("left", "right"), ("top", "bottom"), *SEVERAL.values()]
    for places in groups:
        boxes = []
        for place in places:
            (x, y), half = center(place, size), longer_side(place, size) / 2
            assert half <= min(x, y, size[0] - x, size[1] - y), (size, place)
            boxes.append((x, y, half))
        for number, (x, y, half) in enumerate(boxes):
            for other_x, other_y, _ in boxes[:number]:
                assert max(abs(x - other_x), abs(y - other_y)) >= 2 * half


def test_a_batch_of_pictures_equals_each_picture_alone(stage: Stage) -> None:
    maker = SceneMaker(Random(2))
    scenes = [maker.several(3), maker.scene(2), maker.scene(0), maker.single(open_place=True)]
    batch = stage.render(torch.tensor([scene_code(scene) for scene in scenes]), (288, 224))
    assert batch.shape == (4, 3, 224, 288)
    for scene, picture in zip(scenes, batch, strict=True):
        assert torch.equal(stage.picture(scene, (288, 224))[0], picture)


def test_plurals() -> None:
    words = {
        "cat": "cats", "fox": "foxes", "butterfly": "butterflies", "monkey": "monkeys", "fish": "fish", "bus": "buses",
        "snowman": "snowmen", "cross": "crosses", "ice cream": "ice creams", "slice of pizza": "slices of pizza",
    }  # fmt: skip
    assert {word: plural(word) for word in words} == words


def test_captions_count() -> None:
    circles = Scene("white", tuple(Placed(Thing("circle", "red"), place) for place in SEVERAL[3]))
    assert caption(circles) == "Three red circles on a white background."
    assert caption(circles.styled("grayscale")) == "A black and white picture of three circles."
    cats = Scene("pink", tuple(Placed(Thing("cat"), place) for place in SEVERAL[2]))
    assert caption(cats) == "Two cats on a pink background."


def test_a_prompt_names_everything_that_it_does_not_leave_open() -> None:
    random = Random(5)
    maker, speaker = SceneMaker(random), Speaker(random)
    for _ in range(200):
        scene = maker.single(open_place=True)
        wish = speaker.wish(scene, say_place=False)
        assert wish.open == {"place"}
        assert not [word for word in ("left", "right", "top", "small", "large", "center") if f" {word}" in wish.plan]
        named = speaker.wish(scene)
        assert not named.open
        words = {"large": "large", "small": "small", "top": "at the top", "bottom": "at the bottom"}
        assert words.get(scene.placed[0].place, f"on the {scene.placed[0].place}") in named.plan
        assert speaker.wish(maker.several(), say_place=False).open == frozenset()


def test_seeds_of_an_open_prompt_differ() -> None:
    maker = SceneMaker(Random(5))
    scenes = [maker.on_fresh_background(maker.single(open_place=True)) for _ in range(300)]
    assert {scene.placed[0].place for scene in scenes} == set(ALONE)
    assert {scene.background for scene in scenes} == set(FRESH_COLORS)
    assert {scene.shade for scene in scenes} == set(range(SHADES))


def test_stories_have_one_to_three_pictures_and_an_end_if_they_are_books() -> None:
    random = Random(7)
    teller = StoryTeller(random, SceneMaker(random))
    stories = [teller.story() for _ in range(300)]
    assert {len(story.pages) for story in stories} == {1, 2, 3}
    for story in stories:
        assert story.thought.startswith("I will show ")
        assert bool(story.ending) <= ("book" in story.prompt or "story" in story.prompt)
        assert story.ending in ("", THE_END)
    assert any(story.source for story in stories)
    assert sum(story.prompt.count("then") > 0 for story in stories) > 100
