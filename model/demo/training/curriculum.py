"""The curriculum: tables of lessons on the device, from which every training step draws its rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from model.demo.training.layouts import GRIDS, Grid, grid_tables
from model.demo.training.lessons import ANSWERING, GENERATING, STORIES, WITH_PICTURES, Course, Table
from model.demo.training.variety import FEATURES

LESSON_TEXT, STORY_TEXT = 64, 112
"""Most tokens of a lesson and of a story besides the pictures' own."""
STORY_PICTURES = 4


@dataclass(frozen=True)
class Courses:
    """The courses of a training step, in the groups of `lessons` with the same names."""

    generating: Sequence[Course] = GENERATING
    with_pictures: Sequence[Course] = WITH_PICTURES
    answering: Sequence[Course] = ANSWERING
    stories: Sequence[Course] = STORIES

    def with_rows(self, rows: Mapping[str, int]) -> "Courses":
        """Return only the named courses, with these numbers of rows per step."""
        groups = (self.generating, self.with_pictures, self.answering, self.stories)
        return Courses(
            *([replace(each, rows=rows[each.name]) for each in group if each.name in rows] for group in groups)
        )

    def scaled(self, factor: float) -> "Courses":
        """Return the courses with another number of rows, at least one for each."""
        groups = (self.generating, self.with_pictures, self.answering, self.stories)
        return Courses(*([replace(each, rows=max(1, round(each.rows * factor))) for each in group] for group in groups))

    @property
    def lessons(self) -> Sequence[Course]:
        """All courses except stories. Those that draw a picture come first."""
        return (*self.generating, *self.with_pictures, *self.answering)

    @property
    def drawing(self) -> int:
        """Number of rows of `lessons` that draw a picture. They come first."""
        return sum(course.rows for course in (*self.generating, *self.with_pictures))


@dataclass(frozen=True)
class Sizes:
    """The sizes of pictures that one process trains, and what a step's tensors need for them.

    Attributes:
        length: tokens of the largest picture, rounded up.
        story_grids: indices of the sizes of stories: those with few tokens.
    """

    grids: tuple[Grid, ...] = GRIDS

    @property
    def length(self) -> int:
        return grid_tables(self.grids)[2]

    @property
    def story_grids(self) -> list[int]:
        small = [index for index, (rows, columns) in enumerate(self.grids) if rows * columns <= 72]
        return small or list(range(len(self.grids)))

    @property
    def lesson_length(self) -> int:
        """Tokens of a lesson with one picture, a multiple of 8."""
        return self.length + LESSON_TEXT

    @property
    def story_length(self) -> int:
        """Tokens of a story with four pictures, a multiple of 8."""
        largest = max(self.grids[index][0] * self.grids[index][1] for index in self.story_grids)
        return -(-(STORY_TEXT + STORY_PICTURES * (largest - 1)) // 8) * 8


def sizes_of_rank(rank: int, ranks: int) -> Sizes:
    """Return the sizes that a process trains: all of them, or with several processes a share."""
    shares = [GRIDS[:1], GRIDS[1:7], GRIDS[7:]]
    if ranks >= len(shares):
        return Sizes(shares[rank % len(shares)])
    return Sizes(tuple(grid for share in shares[rank::ranks] for grid in share))


@dataclass
class Rows:
    """A batch of sequences, padded to one length. See `lessons.Table` for the fields that are named alike.

    Attributes:
        tokens, learned: (B, N).
        places: t position of each token, (B, N). The tokens of a picture share one.
        numbers: the index of a picture's token in its picture, (B, N); −1 for other tokens.
        which: the index of the picture of such a token in its sequence, (B, N).
        pictures: codes, (B, K, CODE_LENGTH).
        features: the numbers that decide the pictures, (B, K, FEATURES).
        target: code of the picture to draw, (B, CODE_LENGTH).
        keeps: whether the first picture's features decide it, (B,). Otherwise the noise does.
        cut: number of tokens that it sees, (B,).
        next_place: its t position, (B,).
        grids: index of the pictures' size, (B,).
    """

    tokens: Tensor
    learned: Tensor
    places: Tensor
    numbers: Tensor
    which: Tensor
    pictures: Tensor
    features: Tensor
    target: Tensor
    keeps: Tensor
    cut: Tensor
    next_place: Tensor
    grids: Tensor


class Curriculum:
    """The tables of several courses on the device. Every step draws random rows of each course."""

    def __init__(
        self, courses: Sequence[Course], tables: dict[str, Table], sizes: Sizes, grids: Sequence[int], length: int,
        context: int, device: torch.device, pictures: int,
    ) -> None:  # fmt: skip
        """
        Args:
            grids: indices of the sizes of this curriculum's pictures; the rows of each course are shared among them.
            length: tokens of a padded row.
            context: the id of a picture's token.
            pictures: most pictures in a sequence.
        """
        self.courses = courses
        self._length, self._context = length, context
        joined = Table.joined([tables[course.name] for course in courses])
        self._columns = {field.name: torch.from_numpy(getattr(joined, field.name)).to(device) for field in fields(Table)}
        for name in ("pictures", "targets"):
            self._columns[name] = self._columns[name][:, :pictures].contiguous()
        counts = [len(tables[course.name].lengths) for course in courses]
        starts = np.cumsum([0, *counts[:-1]])
        rows = [course.rows for course in courses]
        self._starts = torch.from_numpy(np.repeat(starts, rows)).to(device)
        self._counts = torch.from_numpy(np.repeat(counts, rows)).to(device)
        self.grids = torch.tensor([grids[row % len(grids)] for count in rows for row in range(count)], device=device)
        tokens = [sizes.grids[index][0] * sizes.grids[index][1] for index in range(len(sizes.grids))]
        self._picture_tokens = torch.tensor(tokens, device=device)[self.grids]

    def draw(self) -> Rows:
        device, count = self._starts.device, len(self._starts)
        chosen = self._starts + (torch.rand(count, device=device) * self._counts).long()
        columns = {name: column[chosen] for name, column in self._columns.items()}
        return expanded(columns, self._picture_tokens, self.grids, self._length, self._context)


def expanded(columns: Mapping[str, Tensor], picture_tokens: Tensor, grids: Tensor, length: int, context: int) -> Rows:
    """Return rows of a table with all tokens of their pictures.

    Args:
        columns: the fields of `lessons.Table`, rows along the first axis.
        picture_tokens: tokens of a picture in each row, (B,).
        length: tokens of a padded row. Longer rows are cut off.
    """
    device, count = picture_tokens.device, len(picture_tokens)
    compact = columns["tokens"].long()
    is_picture = compact == context
    widths = torch.where(is_picture, picture_tokens[:, None], 1)
    ends = widths.cumsum(1)
    order = torch.arange(length, device=device).expand(count, -1).contiguous()
    places = torch.searchsorted(ends, order, right=True).clamp(max=compact.shape[1] - 1)
    tokens = compact.gather(1, places)
    numbers = torch.where(tokens == context, order - (ends - widths).gather(1, places), -1)
    which = (is_picture.long().cumsum(1) - 1).gather(1, places).clamp(min=0)
    target = (torch.rand(count, device=device) * columns["drawn"].clamp(min=1)).long()
    rows = torch.arange(count, device=device)
    cut = columns["cuts"][rows, target].long()
    pictures = columns["pictures"].long()
    features = torch.randn(count, pictures.shape[1], FEATURES, device=device)
    features = torch.where(columns["chained"][:, None, None], features[:, :1], features)
    return Rows(
        tokens=tokens,
        learned=columns["learned"].gather(1, places),
        places=places,
        numbers=numbers,
        which=which,
        pictures=pictures,
        features=features,
        target=columns["targets"].long()[rows, target.clamp(max=columns["targets"].shape[1] - 1)],
        keeps=columns["keeps"][rows, target],
        cut=torch.where(cut > 0, ends.gather(1, (cut - 1).clamp(min=0)[:, None])[:, 0], 0),
        next_place=cut,
        grids=grids,
    )
