"""Training examples: a prompt as the program writes it, and the text or picture that the model should make from it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import numpy as np
from tokenizers import Tokenizer

from model.demo.training.phrases import EDITS, Editor, Inquirer, Speaker, Talker, Wish, second_place
from model.demo.training.rendering import scene_code
from model.demo.training.vocabulary import with_capitals
from model.demo.training.world import (
    COLORS,
    OBJECTS,
    OPPOSITE,
    SHAPES,
    SIDE,
    SIDES,
    Place,
    Placed,
    Scene,
    Style,
    Thing,
)
from model.inputs import prompts
from model.placeholders import PLACEHOLDER
from model.requests import Message

PICTURE_TOKENS = (SIDE // 32) ** 2
END_OF_TURN = "<|im_end|>"


@dataclass(frozen=True)
class Piece:
    """A piece of a sequence. Pieces are tokenized separately, as when the model runs.

    Attributes:
        learned: whether the model has to write the text.
    """

    text: str
    learned: bool = False


@dataclass(frozen=True)
class Lesson:
    """One example.

    Attributes:
        pieces: the sequence, with an `IMAGE_SLOT` in place of the source picture.
        source: the input picture, or None.
        target: the picture to draw behind the sequence, or None.
    """

    pieces: tuple[Piece, ...]
    source: Scene | None = None
    target: Scene | None = None


class SceneMaker:
    """A random generator of scenes. Scenes that are held out from training are never made."""

    def __init__(self, random: Random, held_out: bool = False) -> None:
        """held_out: make only scenes that are held out."""
        self._random = random
        self._held_out = held_out

    def thing(self) -> Thing:
        if self._random.random() < 0.68:
            return Thing(self._random.choice(list(OBJECTS)))
        return Thing(self._random.choice(SHAPES), self._random.choice(list(COLORS)))

    def place(self) -> Place:
        draw = self._random.random()
        return "large" if draw < 0.5 else "small" if draw < 0.6 else self._random.choice(SIDES)

    def scene(self, things: int) -> Scene:
        """Make a scene with this number of things, 0 to 2, in the plain style."""
        while True:
            scene = self._any_scene(things)
            if self.accepts(scene):
                return scene

    def accepts(self, scene: Scene) -> bool:
        return scene.is_visible and scene.is_held_out == self._held_out

    def _any_scene(self, things: int) -> Scene:
        background = self._random.choice(list(COLORS))
        if things == 0:
            return Scene(background)
        if things == 1:
            return Scene(background, (Placed(self.thing(), self.place()),))
        first, second, place = self.thing(), self.thing(), self._random.choice(SIDES)
        while second.name == first.name:
            second = self.thing()
        return Scene(background, (Placed(first, place), Placed(second, OPPOSITE[place])))

    def edited(self, kind: str, things: int | None = None) -> tuple[Scene, Scene]:
        """Make a scene and the result of an edit of this kind. With `held_out` the result is held out.

        Args:
            things: the scene's number of things; None draws it at random.
        """
        while True:
            before = self._any_scene(self._things_before(kind) if things is None else things)
            if not before.is_visible or (before.is_held_out and not self._held_out):
                continue
            after = self._after(kind, before)
            if after is not None and self.accepts(after):
                return before, after

    def _things_before(self, kind: str) -> int:
        two = self._random.random() < 0.3
        if kind == "add":
            return 0 if self._random.random() < 0.12 else 1
        if kind in ("move", "resize"):
            return 1
        return 2 if two or (kind == "remove" and self._random.random() < 0.6) else 1

    def _after(self, kind: str, scene: Scene) -> Scene | None:
        placed = list(scene.placed)
        index = self._random.randrange(len(placed)) if placed else 0
        match kind:
            case "recolor":
                if not placed[index].thing.color:
                    return None
                color = self._random.choice(list(COLORS))
                if color == placed[index].thing.color:
                    return None
                placed[index] = Placed(Thing(placed[index].thing.name, color), placed[index].place)
            case "background":
                color = self._random.choice(list(COLORS))
                return None if color == scene.background else scene.on(color)
            case "replace":
                new = self.thing()
                if new.name in [each.thing.name for each in placed]:
                    return None
                placed[index] = Placed(new, placed[index].place)
            case "move":
                place: Place = self._random.choice((*SIDES, "small"))
                if place == placed[0].place:
                    return None
                placed[0] = Placed(placed[0].thing, place)
            case "resize":
                if placed[0].place not in ("large", "small"):
                    return None
                placed[0] = Placed(placed[0].thing, "small" if placed[0].place == "large" else "large")
            case "add":
                new = self.thing()
                if not placed:
                    return scene.with_things(Placed(new, self._random.choice(SIDES)))
                if new.name == placed[0].thing.name:
                    return None
                old = placed[0].place
                # A thing in the centre moves to a side: to the left if the instruction does not say where.
                where = second_place(old) if old in SIDES or self._random.random() < 0.5 else self._random.choice(SIDES)
                placed = [Placed(placed[0].thing, OPPOSITE[where]), Placed(new, where)]
            case "remove":
                del placed[index]
            case "grayscale":
                return scene.styled("grayscale")
            case "oil painting":
                return scene.styled("oil painting")
        return scene.with_things(*placed)


class Teacher:
    """A random generator of lessons of every kind."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._scenes = SceneMaker(random)
        self._speaker, self._editor = Speaker(random), Editor(random)
        self._inquirer, self._talker = Inquirer(random), Talker(random)

    def generate(self, style: Style) -> Lesson:
        """Make a lesson that draws a picture from words; one in ten has no words, for the unconditional branch."""
        scene = self._scene().styled(style)
        if self._random.random() < 0.1:
            return Lesson((Piece(prompts.unconditional_prompt()),), target=scene)
        wish = self._wish(scene)
        return Lesson((Piece(prompts.generate_prompt(wish.prompt, think=False)),), target=scene)

    def think(self) -> Lesson:
        """Make a lesson that draws a picture from words, with a plan that the model writes first."""
        scene = self._scene()
        wish = self._wish(scene)
        return Lesson(self._planned(prompts.generate_prompt(wish.prompt, think=True), wish.plan), target=scene)

    def edit(self, kinds: Sequence[str], things: int | None = None) -> Lesson:
        """Make a lesson that edits a picture. A few have no words, or neither words nor picture, for guidance."""
        kind = self._random.choices(kinds, [EDIT_WEIGHTS.get(kind, 1) for kind in kinds])[0]
        source, target = self._scenes.edited(kind, things)
        draw = self._random.random()
        if draw < 0.04:
            return Lesson((Piece(prompts.unconditional_prompt()),), target=target)
        if draw < 0.12:
            return Lesson((Piece(prompts.images_prompt(1)),), source, target)
        edit = self._editor.edit(kind, source, target)
        if self._random.random() < 0.12:
            pieces = self._planned(prompts.edit_prompt(edit.instruction, 1, think=True), edit.plan)
            return Lesson(pieces, source, target)
        return Lesson((Piece(prompts.edit_prompt(edit.instruction, 1, think=False)),), source, target)

    def describe(self, style: Style) -> Lesson:
        """Make a lesson with a question about a picture, and often a second question."""
        scene = self._scene().styled(style)
        first = self._inquirer.describe(scene) if self._random.random() < 0.5 else self._ask(scene)
        if self._random.random() < 0.55:
            return self._conversation([first], scene)
        return self._conversation([first, self._ask(scene)], scene)

    def chat(self) -> Lesson:
        """Make a lesson with small talk of one to three turns."""
        turns = self._random.choices((1, 2, 3), (60, 25, 15))[0]
        return self._conversation([self._talker.talk() for _ in range(turns)], None)

    def _scene(self) -> Scene:
        return self._scenes.scene(self._random.choices((0, 1, 2), (2, 74, 24))[0])

    def _wish(self, scene: Scene) -> Wish:
        say_background = self._random.random() > 0.14
        say_colors = self._random.random() > 0.1
        return self._speaker.wish(scene, say_background=say_background, say_colors=say_colors)

    def _ask(self, scene: Scene) -> tuple[str, str]:
        return self._inquirer.ask(scene, self._scenes.thing())

    def _planned(self, prompt: str, plan: str) -> tuple[Piece, ...]:
        return Piece(prompt), Piece(f"{plan}\n</think>", learned=True), Piece(prompts.AFTER_THINK)

    def _conversation(self, turns: Sequence[tuple[str, str]], scene: Scene | None) -> Lesson:
        """Make a lesson from a conversation.

        Either all answers are learned, or only the last one. The earlier answers are then history, which the program
        tokenizes anew as a whole and in lower case.
        """
        pictures = 0 if scene is None else 1
        if len(turns) > 1 and self._random.random() < 0.5:
            said = [Message("user", turns[0][0])]
            for (_, answer), (question, _) in pairwise(turns):
                said += [Message("assistant", answer), Message("user", question)]
            if pictures:
                said[0] = Message("user", f"{PLACEHOLDER}\n{said[0].text}")
            pieces = [
                Piece(prompts.answer_prompt(said, pictures, "")),
                Piece(turns[-1][1] + END_OF_TURN, learned=True),
            ]
            return Lesson(tuple(pieces), scene)
        question, answer = turns[0]
        pieces = [Piece(prompts.answer_prompt([Message("user", question)], pictures, ""))]
        pieces.append(Piece(answer + END_OF_TURN, learned=True))
        for question, answer in turns[1:]:
            pieces.append(Piece("\n" + prompts.chat_ml([Message("user", question)], "", "")))
            pieces.append(Piece(answer + END_OF_TURN, learned=True))
        return Lesson(tuple(pieces), scene)


ONE_OF_TWO = ("recolor", "replace", "remove")
"""Edits in which the network has to find the named thing among two."""
EDIT_WEIGHTS = {"recolor": 16, "background": 20, "replace": 20, "move": 13, "resize": 5, "add": 14, "remove": 12}


@dataclass(frozen=True)
class Course:
    """A kind of lesson.

    Attributes:
        rows: lessons in each training step.
        lessons: the number of different lessons.
        make: makes one lesson.
        source_style, target_style: styles of the input picture and of the picture to draw.
    """

    name: str
    rows: int
    lessons: int
    make: Callable[[Teacher], Lesson]
    source_style: Style = "plain"
    target_style: Style = "plain"


GENERATING = (
    Course("generate", 176, 400_000, lambda teacher: teacher.generate("plain")),
    Course("generate grayscale", 12, 30_000, lambda teacher: teacher.generate("grayscale"), target_style="grayscale"),
    Course("generate oil", 20, 30_000, lambda teacher: teacher.generate("oil painting"), target_style="oil painting"),
)
"""Courses from words to a picture."""
WITH_PICTURES = (
    Course("edit", 184, 400_000, lambda teacher: teacher.edit(EDITS)),
    Course("edit one of two", 64, 200_000, lambda teacher: teacher.edit(ONE_OF_TWO, things=2)),
    Course("edit grayscale", 8, 30_000, lambda teacher: teacher.edit(["grayscale"]), target_style="grayscale"),
    Course("edit oil", 16, 30_000, lambda teacher: teacher.edit(["oil painting"]), target_style="oil painting"),
    Course("think", 32, 200_000, lambda teacher: teacher.think()),
)
"""Courses from words, and perhaps a picture or a plan, to a picture."""
ANSWERING = (
    Course("describe", 56, 300_000, lambda teacher: teacher.describe("plain")),
    Course("describe grayscale", 4, 30_000, lambda teacher: teacher.describe("grayscale"), source_style="grayscale"),
    Course("describe oil", 4, 30_000, lambda teacher: teacher.describe("oil painting"), source_style="oil painting"),
    Course("chat", 12, 60_000, lambda teacher: teacher.chat()),
)
"""Courses from words, and perhaps a picture, to words."""

ALL_COURSES = (*GENERATING, *WITH_PICTURES, *ANSWERING)

CHUNK = 5_000


@dataclass(frozen=True)
class Table:
    """Encoded lessons, one per row.

    Attributes:
        tokens: token ids, (N, length) int16, padded with zeros.
        learned: whether the model has to write each token, (N, length) bool.
        lengths: tokens before the padding, (N,) int16.
        source, target: scene codes, (N, 7) int16; zeros without a picture.
    """

    tokens: np.ndarray
    learned: np.ndarray
    lengths: np.ndarray
    source: np.ndarray
    target: np.ndarray


def chunk(course: Course, number: int) -> list[Lesson]:
    """Make the lessons of one chunk. They are the same on every machine."""
    teacher = Teacher(Random(f"{course.name} {number}"))
    return [course.make(teacher) for _ in range(CHUNK)]


def encode_lessons(lessons: Sequence[Lesson], tokenizer: Tokenizer, length: int) -> Table:
    """Tokenize lessons. A lesson longer than `length` is replaced by the last one that fits."""
    encoded = list(_token_rows(lessons, tokenizer))
    count = len(lessons)
    table = Table(
        np.zeros((count, length), dtype=np.int16),
        np.zeros((count, length), dtype=bool),
        np.zeros(count, dtype=np.int16),
        np.zeros((count, 7), dtype=np.int16),
        np.zeros((count, 7), dtype=np.int16),
    )
    fitting = 0
    for row, (ids, _) in enumerate(encoded):
        fitting = row if len(ids) <= length else fitting
        ids, learned = encoded[fitting]
        lesson = lessons[fitting]
        table.tokens[row, : len(ids)] = ids
        table.learned[row, : len(ids)] = learned
        table.lengths[row] = len(ids)
        if lesson.source:
            table.source[row] = scene_code(lesson.source)
        if lesson.target:
            table.target[row] = scene_code(lesson.target)
    return table


def _token_rows(lessons: Sequence[Lesson], tokenizer: Tokenizer) -> Iterator[tuple[list[int], list[bool]]]:
    """Yield the token ids of each lesson, and whether each is learned."""
    cased = with_capitals(tokenizer)
    context = tokenizer.encode("<IMG_CONTEXT>", add_special_tokens=False).ids * PICTURE_TOKENS
    plain = [(text, piece) for lesson in lessons for piece in lesson.pieces for text in _around_picture(piece.text)]
    read = tokenizer.encode_batch([text for text, piece in plain if not piece.learned], add_special_tokens=False)
    written = cased.encode_batch([text for text, piece in plain if piece.learned], add_special_tokens=False)
    reading, writing = iter(read), iter(written)
    for lesson in lessons:
        ids: list[int] = []
        learned: list[bool] = []
        for piece in lesson.pieces:
            for number, _ in enumerate(_around_picture(piece.text)):
                part = list(next(writing if piece.learned else reading).ids)
                part = context + part if number else part
                ids += part
                learned += [piece.learned] * len(part)
        yield ids, learned


def _around_picture(text: str) -> list[str]:
    """Split a text at its picture, with `<img>` and `</img>` around the gap; return it whole without a picture."""
    before, *after = text.split(prompts.IMAGE_SLOT)
    return [before + "<img>", "</img>" + after[0]] if after else [before]
