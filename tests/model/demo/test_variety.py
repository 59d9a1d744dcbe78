"""The demo's pictures: where things stand, what the noise decides, and the words of stories."""

from random import Random

import pytest
import torch
from tokenizers import Tokenizer

from model.checkpoint.builtin import DEMO_CHECKPOINT
from model.demo.training.judging import closest, true_image
from model.demo.training.layouts import GRIDS, LAYOUTS, SIDES, Grid, choices, spots
from model.demo.training.lessons import kept_variant
from model.demo.training.phrases import caption, name, plural, several
from model.demo.training.rendering import Stage
from model.demo.training.scenes import SEVERAL, SceneMaker
from model.demo.training.stories import Storyteller, story_message
from model.demo.training.variety import FEATURES, OPEN, Freedom, Settler, Variant, features_of, scene_code
from model.demo.training.vocabulary import extended_tokenizer
from model.demo.training.world import COLORS, Placed, Scene, Thing, held_out_background
from model.inputs.prompts import system_message

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage(CPU)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: f"{32 * grid[1]}x{32 * grid[0]}")
def test_things_are_inside_the_picture_and_hardly_overlap(grid: Grid) -> None:
    for layout in LAYOUTS:
        for choice in choices():
            boxes = []
            for size, row, column in spots(layout, grid, *choice):
                half = SIDES[size] / 2
                assert half <= 32 * row <= 32 * grid[0] - half, (layout, choice)
                assert half <= 32 * column <= 32 * grid[1] - half, (layout, choice)
                boxes.append((32 * row, 32 * column, 2 * half))
            for number, (y, x, side) in enumerate(boxes):
                for other_y, other_x, _ in boxes[:number]:
                    assert max(abs(y - other_y), abs(x - other_x)) >= side - 8, (layout, choice)


def test_noise_decides_evenly_and_never_against_the_words() -> None:
    torch.manual_seed(0)
    noise = torch.randn(400, 64, 3 * 32 * 32)
    features = features_of(noise, torch.full((400,), 64))
    assert features.shape == (400, FEATURES)
    assert features.mean(0).abs().max() < 0.2 and (features.std(0) - 1).abs().max() < 0.15
    assert (torch.corrcoef(features.T) - torch.eye(FEATURES)).abs().max() < 0.2
    names = list(COLORS)
    star = Thing("star", "red")
    code = scene_code(Scene("blue", (Placed(star, "large"),)), Freedom(background=True))
    assert code[0] == OPEN
    settled = Settler(CPU).settle(torch.tensor([code] * 400), features)
    chosen = {names[index] for index in settled.background.tolist()}
    assert chosen == set(COLORS) - {"gray", "red", held_out_background(star)}
    assert set(settled.shade.tolist()) == {0, 1, 2}
    assert len(set(settled.choice.tolist())) == 2 * 3 * 3 * 2


def test_words_that_fix_the_background_size_and_place_leave_only_the_shade_open() -> None:
    features = torch.randn(50, FEATURES, generator=torch.Generator().manual_seed(0))
    scene = Scene("blue", (Placed(Thing("cat"), "large"),))
    code = scene_code(scene, Freedom(size=False, place=False))
    settled = Settler(CPU).settle(torch.tensor([code] * 50), features)
    assert {list(COLORS)[index] for index in settled.background.tolist()} == {"blue"}
    assert len(set(settled.choice.tolist())) == 2  # the arrangement of several, which one cat does not have


@pytest.mark.parametrize("grid", [(8, 8), (7, 10), (11, 6), (6, 6), (10, 10)])
def test_the_judge_finds_the_variant_of_a_true_picture(grid: Grid, stage: Stage) -> None:
    random = Random(str(grid))
    scenes = SceneMaker(random)
    for things in (1, 1, 2, SEVERAL):
        scene, variant = scenes.scene(things), Variant.any(random)
        match = closest(true_image(scene, stage, variant, grid), scene, stage)
        assert match.decibels > 50 and match.variant.shade == variant.shade
        other = scene.with_things(Placed(Thing("robot"), scene.placed[0].place, scene.placed[0].count))
        assert not closest(true_image(scene, stage, variant, grid), other, stage).is_like or other.placed[0] in scene.placed


@pytest.mark.parametrize("kind", ["background", "recolor", "remove"])
def test_edits_leave_the_rest_of_a_picture_where_it_was(kind: str, stage: Stage) -> None:
    random = Random(kind)
    scenes = SceneMaker(random)
    for _ in range(8):
        before, after = scenes.edited(kind)
        variant = Variant.any(random)
        one, other = (
            stage.picture(scene, each)[0]
            for scene, each in ((before, variant), (after, kept_variant(before, after, variant)))
        )
        changed = (one - other).abs().amax(0) > 0.05
        if kind == "background":
            corner = one[:, 2, 2][:, None, None]
            changed |= (one - corner).abs().amax(0) < 0.05
            assert changed.float().mean() < 1 and (one == other).float().mean() > 0.02
        else:
            assert 0.005 < changed.float().mean() < 0.6


def test_captions_count() -> None:
    assert caption(Scene("blue", (Placed(Thing("cat"), "large", 2),))) == "Two cats on a blue background."
    scene = Scene("white", (Placed(Thing("star", "red"), "large", 3),))
    assert caption(scene) == "Three red stars on a white background."
    assert caption(scene.styled("grayscale")) == "A black and white picture of three stars."
    assert [plural(noun) for noun in ("cherry", "fox", "bus", "snowman", "fish")] == [
        "cherries", "foxes", "buses", "snowmen", "fish",
    ]  # fmt: skip


def test_stories_have_two_to_four_pictures_that_their_texts_name() -> None:
    random = Random(1)
    teller = Storyteller(random, SceneMaker(random))
    for _ in range(300):
        story = teller.tell()
        assert 2 <= len(story.pages) <= 4 and story.prompt and story.end
        shown = story.source
        for page in story.pages:
            assert page.scene.is_visible and not page.scene.is_held_out
            one = page.scene.placed[0]
            if page.text.startswith("Now") and shown is not None:
                (changed,) = [key for key in ("background", "placed") if getattr(shown, key) != getattr(page.scene, key)]
                assert (page.scene.background if changed == "background" else one.thing.color or one.thing.name) in page.text
            else:
                noun = several(one, color=False).split()[-1] if one.count > 1 else one.thing.name.split()[-1]
                assert noun in page.text
                assert not one.thing.color or page.freedom.colors or f"{one.thing.color} " in page.text
            shown = page.scene
        for number, _ in enumerate(story.pages, start=1):
            assert f"<image{number}>" in story.tagged_end


def test_held_out_stories_show_something_that_is_held_out() -> None:
    random = Random(2)
    teller = Storyteller(random, SceneMaker(random), held_out=True)
    told = [teller.tell() for _ in range(60)]
    assert sum(any(page.scene.is_held_out for page in story.pages) for story in told) > 15


def test_new_words_do_not_move_the_old_ones() -> None:
    old = Tokenizer.from_file(str(DEMO_CHECKPOINT / "tokenizer.json"))
    new = extended_tokenizer(old, ["an unheard word"] * 3 + ["once"], 2)
    assert all(new.token_to_id(word) == number for word, number in old.get_vocab().items())
    for text in ("a cat<|im_end|>\n", f"<|im_start|>system\n{system_message()}<|im_end|>", "<think>\n\n</think>\n\n<img>"):
        assert new.encode(text).ids == old.encode(text).ids
    assert len(new.encode(story_message()).ids) == 1
    assert len(new.encode("an unheard word").ids) == 3
    again = Tokenizer.from_str(new.to_str())
    assert again.encode("an unheard word").ids == new.encode("an unheard word").ids
    assert name(Thing("star", "red")) == "red star"
