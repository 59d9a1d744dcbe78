"""Tables: lessons as arrays of token ids and scene codes, one batch per group of courses."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from tokenizers import Tokenizer

from config.sizes import TOKEN_PIXELS, Size
from model.demo.training.courses import GROUPS, Group, rows_of_step, size_of_step
from model.demo.training.lessons import Lesson, Teacher
from model.demo.training.rendering import CODE_LENGTH, scene_code
from model.demo.training.vocabulary import context_id, with_capitals
from model.inputs.prompts import IMAGE_SLOT
from model.inputs.tokenizer import TEXT_END, TEXT_START

LENGTH_STEP = 16
"""Sequences are padded to a multiple of this, so that a GPU sees few different lengths."""


@dataclass(frozen=True)
class Table:
    """Encoded lessons, one per row.

    Attributes:
        tokens: token ids, (N, length) int16, padded with zeros.
        learned: whether the model has to write each token, (N, length) bool.
        lengths: tokens before the padding, (N,) int16.
        prefixes: tokens before the picture to draw, (N,) int16; `lengths` without a picture to draw.
        sources: codes of the pictures in the sequence, (N, most pictures, CODE_LENGTH) int16; zeros for none.
        targets: code of the picture to draw, (N, CODE_LENGTH) int16; zeros for none.
        things: the largest number of things in a picture.
    """

    tokens: np.ndarray
    learned: np.ndarray
    lengths: np.ndarray
    prefixes: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    things: int


@dataclass(frozen=True)
class Batch:
    """The lessons of one training step.

    Attributes:
        size: (width, height) of all pictures.
        rows: number of lessons of each course, by name.
        tables: one table per group of courses, by name. Rows of a course are neighbours, in the order of the courses.
    """

    size: Size
    rows: Mapping[str, int]
    tables: Mapping[str, Table]


class Encoder:
    """The tokenizer of lessons: the user's words in lower case, the model's as they are."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._read, self._written = tokenizer, with_capitals(tokenizer)
        self._context = context_id(tokenizer)

    def encode(self, lessons: Sequence[Lesson], group: Group, picture_tokens: int) -> Table:
        """Encode lessons. A lesson with too much text for its group is replaced by the last one that fits.

        Raises:
            ValueError: the first lesson has too much text.
        """
        rows = []
        for lesson, encoded in zip(lessons, self._rows(lessons, picture_tokens), strict=True):
            text = len(encoded[0]) - picture_tokens * len(lesson.sources)
            if text <= group.most_text:
                rows.append((lesson, *encoded))
            elif rows:
                rows.append(rows[-1])
            else:
                raise ValueError(f"a lesson of {group.name} has {text} tokens of text")
        count, longest = len(rows), max(len(ids) for _, ids, _, _ in rows)
        length = -(-longest // LENGTH_STEP) * LENGTH_STEP
        table = Table(
            np.zeros((count, length), dtype=np.int16),
            np.zeros((count, length), dtype=bool),
            np.zeros(count, dtype=np.int16),
            np.zeros(count, dtype=np.int16),
            np.zeros((count, group.pictures, CODE_LENGTH), dtype=np.int16),
            np.zeros((count, CODE_LENGTH), dtype=np.int16),
            _most_things(lessons),
        )
        for row, (lesson, ids, learned, starts) in enumerate(rows):
            table.tokens[row, : len(ids)] = ids
            table.learned[row, : len(ids)] = learned
            table.lengths[row] = len(ids)
            table.prefixes[row] = len(ids) if lesson.drawn is None else starts[lesson.drawn]
            for number, scene in enumerate(lesson.sources):
                table.sources[row, number] = scene_code(scene)
            if lesson.target:
                table.targets[row] = scene_code(lesson.target)
        return table

    def _rows(
        self, lessons: Sequence[Lesson], picture_tokens: int
    ) -> Iterator[tuple[list[int], list[bool], list[int]]]:
        """Yield token ids, whether each is learned, and where each picture begins."""
        parts = [(text, piece.learned) for lesson in lessons for piece in lesson.pieces for text in _texts(piece.text)]
        reading, writing = (
            iter(tokenizer.encode_batch([text for text, learned in parts if learned == is_learned], False))
            for tokenizer, is_learned in ((self._read, False), (self._written, True))
        )
        context = [self._context] * picture_tokens
        for lesson in lessons:
            ids: list[int] = []
            learned: list[bool] = []
            starts: list[int] = []
            for piece in lesson.pieces:
                for number, _ in enumerate(_texts(piece.text)):
                    own = next(writing if piece.learned else reading).ids
                    if number or piece.drawn:
                        starts.append(len(ids))
                        own = [*context, *own]
                    ids += own
                    learned += [piece.learned] * len(own)
            yield ids, learned, starts


def _most_things(lessons: Sequence[Lesson]) -> int:
    scenes = [scene for lesson in lessons for scene in (*lesson.sources, lesson.target) if scene]
    return max((len(scene.placed) for scene in scenes), default=0)


def _texts(text: str) -> list[str]:
    """Split a text at its input pictures, with `<img>` and `</img>` around each gap."""
    text = text.replace(TEXT_START, "").replace(TEXT_END, "")  # lessons contain no control tokens in plain text
    return text.replace(IMAGE_SLOT, f"<img>{IMAGE_SLOT}</img>").split(IMAGE_SLOT)


def make_batch(step: int, encoder: Encoder, rows: int, rank: int = 0) -> Batch:
    """Make the lessons of a training step. They are the same on every machine.

    Args:
        rows: number of lessons at 256×256; see `rows_of_step`.
        rank: number of the process that trains with them; each gets other lessons of the same size.
    """
    size = size_of_step(step)
    numbers = rows_of_step(size, rows)
    teacher = Teacher(Random(f"step {step} rank {rank}"))
    picture_tokens = (size[0] // TOKEN_PIXELS) * (size[1] // TOKEN_PIXELS)
    tables = {}
    for group in GROUPS:
        lessons = [course.make(teacher) for course in group.courses for _ in range(numbers[course.name])]
        tables[group.name] = encoder.encode(lessons, group, picture_tokens)
    return Batch(size, numbers, tables)
