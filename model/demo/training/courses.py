"""Courses: the kinds of lessons, and how many of each a training step has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from config.sizes import Size
from model.demo.training.lessons import ONE_OF_TWO, Lesson, Teacher
from model.demo.training.phrases import EDITS
from model.demo.training.world import SIDE, SIZES, Style


@dataclass(frozen=True)
class Course:
    """A kind of lesson.

    Attributes:
        rows: its part of the lessons of a training step.
        make: makes one lesson.
        source_style, target_style: styles of the pictures in the sequence and of the picture to draw.
        draws: whether the lessons have a picture to draw.
    """

    name: str
    rows: int
    make: Callable[[Teacher], Lesson]
    source_style: Style = "plain"
    target_style: Style = "plain"
    draws: bool = True


@dataclass(frozen=True)
class Group:
    """Courses whose lessons form one batch.

    Attributes:
        courses: those that draw, then the others.
        most_text: the largest number of tokens of a sequence, apart from those of its pictures.
        pictures: the largest number of pictures in a sequence.
        exact_sources: whether the pictures in the sequence are exactly the true ones. Other lessons show pictures with
            a little noise, because users edit pictures that the model made.
    """

    name: str
    courses: Sequence[Course]
    most_text: int
    pictures: int
    exact_sources: bool = False


WORDS = Group(
    "words",
    (
        Course("generate", 150, lambda teacher: teacher.generate("plain")),
        Course("several", 40, lambda teacher: teacher.several()),
        Course("generate grayscale", 10, lambda teacher: teacher.generate("grayscale"), target_style="grayscale"),
        Course("generate oil", 16, lambda teacher: teacher.generate("oil painting"), target_style="oil painting"),
        Course("think", 28, lambda teacher: teacher.think()),
    ),
    most_text=80,
    pictures=0,
)
"""From words to a picture, some with a plan before it."""
MIXED = Group(
    "mixed",
    (
        Course("edit", 150, lambda teacher: teacher.edit(EDITS)),
        Course("edit one of two", 56, lambda teacher: teacher.edit(ONE_OF_TWO, things=2)),
        Course("edit grayscale", 8, lambda teacher: teacher.edit(["grayscale"]), target_style="grayscale"),
        Course("edit oil", 14, lambda teacher: teacher.edit(["oil painting"]), target_style="oil painting"),
        Course("describe", 48, lambda teacher: teacher.describe("plain"), draws=False),
        Course("describe grayscale", 4, lambda teacher: teacher.describe("grayscale"), "grayscale", draws=False),
        Course("describe oil", 4, lambda teacher: teacher.describe("oil painting"), "oil painting", draws=False),
        Course("chat", 12, lambda teacher: teacher.chat(), draws=False),
    ),
    most_text=112,
    pictures=1,
)
"""From words and mostly a picture to a picture or to words."""
STORIES = Group("stories", (Course("story", 56, lambda teacher: teacher.story()),), 288, 3, exact_sources=True)
"""Answers in which texts and pictures alternate."""

GROUPS = (WORDS, MIXED, STORIES)
ALL_COURSES = tuple(course for group in GROUPS for course in group.courses)
ALL_ROWS = sum(course.rows for course in ALL_COURSES)
"""Lessons of a training step with pictures of 256×256."""

SIZE_SHARES: dict[Size, int] = dict(zip(SIZES, (32, 10, 22, 6, 6, 6, 6, 6, 6), strict=True))
"""Weights of the picture sizes. All pictures of a step have one size. Squares of 320 pixels get many steps, because a
network learns them more slowly."""


def size_of_step(step: int) -> Size:
    """Return the size of the pictures of a training step, the same on every machine."""
    return Random(f"size {step}").choices(list(SIZE_SHARES), list(SIZE_SHARES.values()))[0]


def rows_of_step(size: Size, rows: int) -> dict[str, int]:
    """Return the number of lessons of each course: about `rows` in all at 256×256, fewer for larger pictures.

    Every course has at least one lesson. The step then takes about the same time and memory at every size.
    """
    factor = rows / ALL_ROWS * SIDE * SIDE / (size[0] * size[1])
    return {course.name: max(1, round(course.rows * factor)) for course in ALL_COURSES}
