"""Training examples: a prompt as the program writes it, and the text or picture that the model should make from it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from model.demo.training.layouts import SHIFTING, layout_of
from model.demo.training.phrases import EDITS, Editor, Inquirer, Speaker, Talker, Wish
from model.demo.training.scenes import EDIT_WEIGHTS, ONE_OF_TWO, SEVERAL, SceneMaker
from model.demo.training.stories import NOT_THINKING, Storyteller, story_message
from model.demo.training.variety import CODE_LENGTH, Freedom, Variant, scene_code
from model.demo.training.vocabulary import with_capitals
from model.demo.training.world import Scene, Style
from model.inputs import prompts
from model.placeholders import PLACEHOLDER
from model.requests import Message

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
        pieces: the sequence, with an `IMAGE_SLOT` in place of each picture in it.
        pictures: the pictures in the sequence, at most `PICTURES`.
        target: the picture to draw behind the sequence, or None.
        freedom: what the words leave open in `target`.
        keeps: whether `target` has the variant of the picture in the sequence. Otherwise the noise decides it.
        story: whether the pictures in the sequence, from number `first` on, are the targets, each drawn in its place.
        chained: whether all pictures of a story have the same variant.
        first: the number of a story's input pictures.
    """

    pieces: tuple[Piece, ...]
    pictures: tuple[tuple[Scene, Freedom], ...] = ()
    target: Scene | None = None
    freedom: Freedom = Freedom()
    keeps: bool = False
    story: bool = False
    chained: bool = False
    first: int = 0


PICTURES = 4
"""Most pictures in a sequence."""


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
        return Lesson((Piece(prompts.generate_prompt(wish.prompt, think=False)),), target=scene, freedom=wish.freedom)

    def think(self) -> Lesson:
        """Make a lesson that draws a picture from words, with a plan that the model writes first."""
        scene = self._scene()
        wish = self._wish(scene)
        pieces = self._planned(prompts.generate_prompt(wish.prompt, think=True), wish.plan)
        return Lesson(pieces, target=scene, freedom=wish.freedom)

    def edit(self, kinds: Sequence[str], things: int | None = None) -> Lesson:
        """Make a lesson that edits a picture. A few have no words, or neither words nor picture, for guidance."""
        kind = self._random.choices(kinds, [EDIT_WEIGHTS.get(kind, 1) for kind in kinds])[0]
        source, target = self._scenes.edited(kind, things)
        draw = self._random.random()
        if draw < 0.04:
            return Lesson((Piece(prompts.unconditional_prompt()),), target=target)
        freedom, pictures = kept_freedom(source, target), ((source, Freedom()),)
        if draw < 0.12:
            return Lesson((Piece(prompts.images_prompt(1)),), pictures, target, freedom, keeps=True)
        edit = self._editor.edit(kind, source, target)
        think = self._random.random() < 0.12
        prompt = prompts.edit_prompt(edit.instruction, 1, think=think)
        pieces = self._planned(prompt, edit.plan) if think else (Piece(prompt),)
        return Lesson(pieces, pictures, target, freedom, keeps=True)

    def story(self) -> Lesson:
        """Make a lesson with an answer of texts and pictures. A few have no words, for guidance."""
        story = Storyteller(self._random, self._scenes).tell()
        first = 0 if story.source is None else 1
        shown = [(page.scene, page.freedom) for page in story.pages]
        if story.source is not None:
            shown.insert(0, (story.source, Freedom()))
        form: dict[str, Any] = {"story": True, "chained": story.chained, "first": first}
        if self._random.random() < 0.1:
            text = prompts.images_prompt(first).removesuffix("<img>") + prompts.IMAGE_SLOT * (len(shown) - first)
            return Lesson((Piece(text),), tuple(shown), **form)
        pieces = [Piece(prompts.chat_ml(prompts.place_images([Message("user", story.prompt)], first), story_message(), ""))]
        think = self._random.random() < 0.4
        pieces[0] = pieces[0] if think else Piece(pieces[0].text + NOT_THINKING)
        for number, page in enumerate(story.pages):
            opening = "<think>\n" if think and number == 0 else ""
            pieces.append(Piece(opening + page.text + prompts.IMAGE_SLOT, learned=True))
        closing = f"\n</think>\n\n{story.tagged_end}" if think else story.end
        pieces.append(Piece(closing + END_OF_TURN, learned=True))
        return Lesson(tuple(pieces), tuple(shown), **form)

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
        return self._scenes.scene(self._random.choices((0, 1, 2, SEVERAL), (2, 62, 22, 14))[0])

    def _wish(self, scene: Scene) -> Wish:
        say_background = self._random.random() > 0.25
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
        pictures, shown = (0, ()) if scene is None else (1, ((scene, Freedom()),))
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
            return Lesson(tuple(pieces), shown)
        question, answer = turns[0]
        pieces = [Piece(prompts.answer_prompt([Message("user", question)], pictures, ""))]
        pieces.append(Piece(answer + END_OF_TURN, learned=True))
        for question, answer in turns[1:]:
            pieces.append(Piece("\n" + prompts.chat_ml([Message("user", question)], "", "")))
            pieces.append(Piece(answer + END_OF_TURN, learned=True))
        return Lesson(tuple(pieces), shown)


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
    Course("generate", 160, 300_000, lambda teacher: teacher.generate("plain")),
    Course("generate grayscale", 12, 30_000, lambda teacher: teacher.generate("grayscale"), target_style="grayscale"),
    Course("generate oil", 18, 30_000, lambda teacher: teacher.generate("oil painting"), target_style="oil painting"),
)
"""Courses from words to a picture."""
WITH_PICTURES = (
    Course("edit", 150, 300_000, lambda teacher: teacher.edit(EDITS)),
    Course("edit one of two", 56, 150_000, lambda teacher: teacher.edit(ONE_OF_TWO, things=2)),
    Course("edit grayscale", 8, 30_000, lambda teacher: teacher.edit(["grayscale"]), target_style="grayscale"),
    Course("edit oil", 14, 30_000, lambda teacher: teacher.edit(["oil painting"]), target_style="oil painting"),
    Course("think", 32, 150_000, lambda teacher: teacher.think()),
)
"""Courses from words, and perhaps a picture or a plan, to a picture."""
ANSWERING = (
    Course("describe", 52, 200_000, lambda teacher: teacher.describe("plain")),
    Course("describe grayscale", 6, 30_000, lambda teacher: teacher.describe("grayscale"), source_style="grayscale"),
    Course("describe oil", 6, 30_000, lambda teacher: teacher.describe("oil painting"), source_style="oil painting"),
    Course("chat", 8, 40_000, lambda teacher: teacher.chat()),
)
"""Courses from words, and perhaps a picture, to words."""
STORIES = (Course("story", 48, 120_000, lambda teacher: teacher.story()),)
"""Courses from words to texts with pictures between them."""

ALL_COURSES = (*GENERATING, *WITH_PICTURES, *ANSWERING, *STORIES)

CHUNK = 5_000


@dataclass(frozen=True)
class Table:
    """Encoded lessons, one per row. Each picture in a sequence is one token here; `lecture` expands it.

    Attributes:
        tokens: token ids, (N, length) int16, padded with zeros.
        learned: whether the model has to write each token, (N, length) bool.
        lengths: tokens before the padding, (N,) int16.
        pictures: codes of the pictures in the sequence, (N, K, CODE_LENGTH) int16.
        chained: whether all pictures in the sequence have the same variant, (N,) bool.
        targets: codes of the pictures to draw, (N, K, CODE_LENGTH) int16.
        keeps: whether each of them has the variant of the first picture in the sequence, (N, K) bool.
        cuts: number of tokens that each of them sees, (N, K) int16.
        drawn: number of pictures to draw, (N,) int16.
    """

    tokens: np.ndarray
    learned: np.ndarray
    lengths: np.ndarray
    pictures: np.ndarray
    chained: np.ndarray
    targets: np.ndarray
    keeps: np.ndarray
    cuts: np.ndarray
    drawn: np.ndarray

    @staticmethod
    def empty(count: int, length: int) -> "Table":
        return Table(
            np.zeros((count, length), dtype=np.int16),
            np.zeros((count, length), dtype=bool),
            np.zeros(count, dtype=np.int16),
            np.zeros((count, PICTURES, CODE_LENGTH), dtype=np.int16),
            np.zeros(count, dtype=bool),
            np.zeros((count, PICTURES, CODE_LENGTH), dtype=np.int16),
            np.zeros((count, PICTURES), dtype=bool),
            np.zeros((count, PICTURES), dtype=np.int16),
            np.zeros(count, dtype=np.int16),
        )

    @staticmethod
    def joined(tables: Sequence["Table"]) -> "Table":
        names = [field.name for field in fields(Table)]
        return Table(**{name: np.concatenate([getattr(table, name) for table in tables]) for name in names})


def chunk(course: Course, number: int) -> list[Lesson]:
    """Make the lessons of one chunk. They are the same on every machine."""
    teacher = Teacher(Random(f"{course.name} {number}"))
    return [course.make(teacher) for _ in range(CHUNK)]


def encode_lessons(
    lessons: Sequence[Lesson], tokenizer: Tokenizer, length: int, expanded: int, picture_tokens: int
) -> Table:
    """Tokenize lessons. A lesson that is too long is replaced by the last one that fits.

    Args:
        length: most tokens, with one token for each picture.
        expanded: most tokens, with `picture_tokens` tokens for each picture.
    """
    encoded = list(_token_rows(lessons, tokenizer))
    (context,) = tokenizer.encode("<IMG_CONTEXT>", add_special_tokens=False).ids
    table = Table.empty(len(lessons), length)
    fitting = 0
    for row, (ids, _) in enumerate(encoded):
        long = len(ids) + ids.count(context) * (picture_tokens - 1)
        fitting = row if len(ids) <= length and long <= expanded else fitting
        ids, learned = encoded[fitting]
        lesson = lessons[fitting]
        table.tokens[row, : len(ids)] = ids
        table.learned[row, : len(ids)] = learned
        table.lengths[row] = len(ids)
        table.chained[row] = lesson.chained
        for number, (scene, freedom) in enumerate(lesson.pictures):
            table.pictures[row, number] = scene_code(scene, freedom)
        if lesson.target:
            table.targets[row, 0] = scene_code(lesson.target, lesson.freedom)
            table.keeps[row, 0], table.cuts[row, 0], table.drawn[row] = lesson.keeps, len(ids), 1
        elif lesson.story:
            places = [place for place, token in enumerate(ids) if token == context][lesson.first :]
            count = table.drawn[row] = len(places)
            table.targets[row, :count] = table.pictures[row, lesson.first : lesson.first + count]
            table.cuts[row, :count] = places
            table.keeps[row, :count] = lesson.chained
            table.keeps[row, 0] &= lesson.first > 0
    return table


def _token_rows(lessons: Sequence[Lesson], tokenizer: Tokenizer) -> Iterator[tuple[list[int], list[bool]]]:
    """Yield the token ids of each lesson, and whether each is learned."""
    cased = with_capitals(tokenizer)
    (context,) = tokenizer.encode("<IMG_CONTEXT>", add_special_tokens=False).ids
    (end,) = tokenizer.encode("</img>", add_special_tokens=False).ids
    plain = [(text, piece) for lesson in lessons for piece in lesson.pieces for text in _between_pictures(piece.text)]
    read = tokenizer.encode_batch([text for text, piece in plain if not piece.learned], add_special_tokens=False)
    written = cased.encode_batch([text for text, piece in plain if piece.learned], add_special_tokens=False)
    reading, writing = iter(read), iter(written)
    for lesson in lessons:
        ids: list[int] = []
        learned: list[bool] = []
        for piece in lesson.pieces:
            for number, _ in enumerate(_between_pictures(piece.text)):
                if number:
                    ids += [context, end]
                    learned += [False, False]
                part = next(writing if piece.learned else reading).ids
                ids += part
                learned += [piece.learned] * len(part)
        yield ids, learned


def _between_pictures(text: str) -> list[str]:
    """Split a text at its pictures, with `<img>` before each gap."""
    *before, last = text.split(prompts.IMAGE_SLOT)
    return [*(part + "<img>" for part in before), last]


def kept_freedom(source: Scene, target: Scene) -> Freedom:
    """Return what an edit leaves as it is in the picture before. The rest becomes the plainest variant."""
    before, after = layout_of(source), layout_of(target)
    return Freedom(size=before == "large" or after != "large", place=SHIFTING[after] <= SHIFTING[before])


def kept_variant(source: Scene, target: Scene, variant: Variant) -> Variant:
    """Return the variant of an edit's result, given that of the picture before."""
    freedom = kept_freedom(source, target)
    kept = variant if freedom.size else replace(variant, size=0)
    return kept if freedom.place else replace(kept, down=0, across=0)
