"""The judge of answers with pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

from model.demo.training.judging import is_like, rims
from model.demo.training.reading import said
from model.demo.training.rendering import Stage
from model.demo.training.stories import Story

SAME_RIM = 24
"""Largest difference of a channel at which two backgrounds count as the same."""


@dataclass(frozen=True)
class StoryVerdict:
    """A judgement of an answer with pictures.

    Attributes:
        order: whether it has the right number of pictures, each after a text that says what the prompt asks for there.
        shown: for each picture, whether it shows what the text before it says; False for each that is missing.
        kept: for each picture that changes the one before it, but not its background, whether the background stayed;
            False for each that is missing.
    """

    order: bool
    shown: tuple[bool, ...]
    kept: tuple[bool, ...]


def judge_story(texts: Sequence[str], pictures: Sequence[Image.Image], story: Story, stage: Stage) -> StoryVerdict:
    """Judge an answer with pictures.

    Args:
        texts: the text before each picture, without thinking.
        story: a right answer.
    """
    order = len(pictures) == len(story.pages) and all(
        said(text) == said(page.text) for text, page in zip(texts, story.pages, strict=True)
    )
    shown = [_is_shown(text, picture, stage) for text, picture in zip(texts, pictures, strict=True)]
    missing = [False] * (len(story.pages) - len(pictures))
    kept = []
    for index, (before, after) in enumerate(pairwise(story.pages)):
        if after.text.startswith("Now") and before.scene.background == after.scene.background:
            both = pictures[index : index + 2]
            kept.append(len(both) == 2 and _same_rim(both[0], both[1]))
    return StoryVerdict(order, (*shown, *missing), tuple(kept))


def _is_shown(text: str, picture: Image.Image, stage: Stage) -> bool:
    words = said(text)
    return words is not None and is_like(picture, words.scene, stage, open_to=words.open)


def _same_rim(one: Image.Image, other: Image.Image) -> bool:
    """Return whether two pictures have the same background."""
    medians = [
        np.median(np.concatenate([part.reshape(-1, 3) for part in rims(np.asarray(each.convert("RGB")))]), axis=0)
        for each in (one, other)
    ]
    return bool(np.abs(medians[0] - medians[1]).max() <= SAME_RIM)
