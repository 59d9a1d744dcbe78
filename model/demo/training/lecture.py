"""The lecture: batches of lessons, and the losses of pictures and texts that the demo's training minimises."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.demo.training.lessons import (
    ANSWERING,
    GENERATING,
    PICTURE_TOKENS,
    WITH_PICTURES,
    Course,
    Table,
)
from model.demo.training.rendering import STYLES, Stage
from model.demo.training.world import SIDE
from model.inputs.image_tensors import IMAGENET_MEAN, IMAGENET_STD
from model.network.cache import KVCache
from model.network.flow import picture_to_tokens
from model.network.rope import attention_rotary, patch_rotary
from model.network.sensenova import SenseNovaU1

GRID = (SIDE // 32, SIDE // 32)
TIME_MEAN, TIME_DEVIATION = -0.6, 1.0
"""Times are sigmoid(normal) with this mean and deviation: more of them have much noise than little."""
EARLY_SHARE, EARLY = 0.2, 0.03
"""Share of times that are drawn evenly below `EARLY`; half of them are 0. At such times only the prefix determines the
picture. From 0.05 on the noisy picture reveals it. A network that never had to use the prefix draws one of two things
at random."""
LEAST_NOISE = 0.1
"""Smallest value of 1 − t in the weight of the loss."""
SOURCE_NOISE = 0.03
"""Deviation of the noise that is added to input pictures in −1..1: users edit pictures that the model made."""


class TrainingCache(KVCache):
    """A KV cache whose tensors are nodes of the autograd graph. It stores the keys and values of the und tower only."""

    def __init__(self) -> None:
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._complete = False
        self._visible: tuple[Tensor, Tensor] | None = None

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Store the prefix's keys and values. Once it is complete, append a picture's without storing them."""
        if self._complete:
            keys, values = (
                torch.cat([before, new], dim=2)
                for before, new in ((self._keys[layer], keys), (self._values[layer], values))
            )
        else:
            self._keys.append(keys)
            self._values.append(values)
        self._visible = keys, values

    def upto(self, layer: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values that `write` has just stored or joined for this layer."""
        assert self._visible is not None
        return self._visible

    @property
    def prefix_length(self) -> int:
        return self._keys[0].shape[2]

    def joined(self, other: "TrainingCache", rows: int) -> "TrainingCache":
        """Return a complete cache: the rows of this one, then the first `rows` of another with longer prefixes."""
        both = TrainingCache()
        both._keys = [_stacked(mine, theirs[:rows]) for mine, theirs in zip(self._keys, other._keys, strict=True)]
        both._values = [_stacked(mine, theirs[:rows]) for mine, theirs in zip(self._values, other._values, strict=True)]
        both._complete = True
        return both


def _stacked(short: Tensor, long: Tensor) -> Tensor:
    return torch.cat([F.pad(short, (0, 0, 0, long.shape[2] - short.shape[2])), long])


@dataclass
class Rows:
    """A batch of lessons; see `lessons.Table`."""

    tokens: Tensor
    learned: Tensor
    lengths: Tensor
    source: Tensor
    target: Tensor


class Curriculum:
    """The tables of several courses on the device. Every step draws random rows of each course."""

    def __init__(self, courses: Sequence[Course], tables: dict[str, Table], device: torch.device) -> None:
        self.courses = courses
        self._columns = {
            name: torch.from_numpy(np.concatenate([getattr(tables[course.name], name) for course in courses])).to(
                device
            )
            for name in ("tokens", "learned", "lengths", "source", "target")
        }
        counts = [len(tables[course.name].lengths) for course in courses]
        starts = np.cumsum([0, *counts[:-1]])
        rows = [course.rows for course in courses]
        self._starts = torch.from_numpy(np.repeat(starts, rows)).to(device)
        self._counts = torch.from_numpy(np.repeat(counts, rows)).to(device)

    def draw(self) -> Rows:
        chosen = self._starts + (torch.rand(len(self._starts), device=self._starts.device) * self._counts).long()
        columns = {name: column[chosen] for name, column in self._columns.items()}
        return Rows(**{name: column if name == "learned" else column.long() for name, column in columns.items()})


def painted(stage: Stage, codes: Tensor, styles: Sequence[tuple[str, int]]) -> Tensor:
    """Render scene codes (B, 7) in styles.

    Args:
        styles: each style with its number of consecutive rows.
    """
    pictures = stage.render(codes)
    counts = [count for _, count in styles]
    parts = [STYLES[style](part) for (style, _), part in zip(styles, pictures.split(counts), strict=True)]
    return torch.cat(parts)


@dataclass(frozen=True)
class Courses:
    """The courses of a training step, in the groups of `lessons` with the same names."""

    generating: Sequence[Course] = GENERATING
    with_pictures: Sequence[Course] = WITH_PICTURES
    answering: Sequence[Course] = ANSWERING

    def with_rows(self, rows: Mapping[str, int]) -> "Courses":
        """Return only the named courses, with these numbers of rows per step."""
        groups = (self.generating, self.with_pictures, self.answering)
        return Courses(
            *([replace(each, rows=rows[each.name]) for each in group if each.name in rows] for group in groups)
        )

    @property
    def mixed(self) -> Sequence[Course]:
        return (*self.with_pictures, *self.answering)


class Lecture(nn.Module):
    """The loss of one training step, as a module that can be compiled."""

    def __init__(self, network: SenseNovaU1, stage: Stage, courses: Courses, context: int, early: float) -> None:
        """early: the share of early times, 0 to 1; see EARLY_SHARE."""
        super().__init__()
        self.network = network
        self._early = early
        self._courses = courses
        self._stage = stage
        self._context = context
        config, device = network.config, network.device
        vision = config.vision
        self._patches = patch_rotary(2 * GRID[0], 2 * GRID[1], vision.hidden_size, vision.rope_theta, device)
        self._mean, self._deviation = (
            torch.tensor(values, device=device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD)
        )

    def forward(self, words: Rows, mixed: Rows) -> tuple[Tensor, Tensor]:
        """Return the pictures' loss and the texts' loss, float32 scalars.

        Args:
            words: rows of `generating`.
            mixed: rows of `with_pictures`, then of `answering`.
        """
        courses = self._courses
        drawing = sum(each.rows for each in courses.with_pictures)
        with torch.no_grad():
            sources = painted(self._stage, mixed.source, [(each.source_style, each.rows) for each in courses.mixed])
            sources = (sources + SOURCE_NOISE * torch.randn_like(sources)).clamp(-1, 1)
            codes = torch.cat([words.target, mixed.target[:drawing]])
            styles = [(each.target_style, each.rows) for each in (*courses.generating, *courses.with_pictures)]
            targets = picture_to_tokens(painted(self._stage, codes, styles))
        _, words_cache, words_next = self._read(words, None)
        hidden, mixed_cache, mixed_next = self._read(mixed, sources)
        text_loss = self._text_loss(hidden, mixed)
        lengths = torch.cat([words.lengths, mixed.lengths[:drawing]])
        next_positions = torch.cat([words_next, mixed_next[:drawing]])
        picture_loss = self._picture_loss(targets, words_cache.joined(mixed_cache, drawing), lengths, next_positions)
        return picture_loss, text_loss

    def _read(self, rows: Rows, sources: Tensor | None) -> tuple[Tensor, TrainingCache, Tensor]:
        """Run the und tower over whole sequences; return hidden states, cache, and t of the token after each."""
        network, tokens = self.network, rows.tokens
        count, length = tokens.shape
        embeddings = network.embed_tokens(tokens)
        is_picture = tokens == self._context
        number = (is_picture.cumsum(1) - 1).clamp(min=0)  # index of a picture's token in its picture
        if sources is not None:
            pixels = ((sources * 0.5 + 0.5) - self._mean) / self._deviation
            seen = network.und_vision(pixels.to(network.dtype), self._patches)
            seen = seen.gather(1, number[..., None].expand(-1, -1, seen.shape[-1]))
            embeddings = torch.where(is_picture[..., None], seen, embeddings)
        positions = token_positions(is_picture, number)
        cosines, sines = attention_rotary(positions.flatten(1), network.config.transformer, network.dtype)
        rotary = (cosines.view(count, 1, length, -1), sines.view(count, 1, length, -1))
        order = torch.arange(length, device=tokens.device)
        visible = (order[:, None] >= order) | (is_picture[:, :, None] & is_picture[:, None, :])
        cache = TrainingCache()
        hidden = network.und(embeddings, [rotary], [cache], visible[:, None])
        last = rows.lengths[:, None] - 1
        return hidden, cache, positions[0].gather(1, last)[:, 0] + 1

    def _text_loss(self, hidden: Tensor, rows: Rows) -> Tensor:
        logits = self.network.logits(hidden[:, :-1])
        learned = rows.learned[:, 1:].float()
        losses = F.cross_entropy(logits.flatten(0, 1), rows.tokens[:, 1:].flatten(), reduction="none")
        return (losses * learned.flatten()).sum() / learned.sum().clamp(min=1)

    def _picture_loss(self, targets: Tensor, cache: TrainingCache, lengths: Tensor, t_of_pictures: Tensor) -> Tensor:
        """Return the squared error of the velocity (x̂ − x) / (1 − t), which sampling uses: the squared error of the
        predicted clean picture, with a weight. `targets` are (B, L, 3·32²)."""
        times = draw_times(len(targets), self._early, targets.device)
        t = times[:, None, None]
        noisy = t * targets + (1 - t) * torch.randn_like(targets)  # the noise amplitude of 64 tokens is 1
        predicted = self._predict(noisy, times, cache, lengths, t_of_pictures)
        errors = (predicted.float() - targets).square().mean(dim=(1, 2))
        return (errors / (1 - times).clamp(min=LEAST_NOISE).square()).mean()

    def _predict(
        self, noisy: Tensor, times: Tensor, cache: TrainingCache, lengths: Tensor, t_of_pictures: Tensor
    ) -> Tensor:
        """Predict the clean pictures (B, L, 3·32²) behind prefixes of different lengths."""
        network, device = self.network, noisy.device
        count, prefix = len(noisy), cache.prefix_length
        relative_noise_scale = torch.full((1,), 1 / network.config.flow.noise_scale_max, device=device)
        conditioning = network.timestep_embedder(times) + network.noise_scale_embedder(relative_noise_scale)
        embeddings = network.embed_noisy(noisy.to(network.dtype), conditioning, GRID, self._patches)
        square = torch.arange(PICTURE_TOKENS, device=device)
        positions = torch.stack(
            [
                t_of_pictures[:, None].expand(-1, PICTURE_TOKENS),
                (square // GRID[1]).expand(count, -1),
                (square % GRID[1]).expand(count, -1),
            ]
        )
        cosines, sines = attention_rotary(positions.flatten(1), network.config.transformer, network.dtype)
        rotary = (cosines.view(count, 1, PICTURE_TOKENS, -1), sines.view(count, 1, PICTURE_TOKENS, -1))
        keys = torch.arange(prefix + PICTURE_TOKENS, device=device)
        visible = (keys < lengths[:, None]) | (keys >= prefix)
        visible = visible[:, None, None, :].expand(-1, 1, PICTURE_TOKENS, -1)
        hidden = network.gen(embeddings, [rotary], [cache], visible)
        return network.fm_head(network.gen.norm(hidden), *GRID)


def draw_times(count: int, early_share: float, device: torch.device) -> Tensor:
    """Draw times of noisy pictures, (count,), 0 to 1."""
    times = torch.sigmoid(TIME_MEAN + TIME_DEVIATION * torch.randn(count, device=device))
    early = EARLY * (2 * torch.rand(count, device=device) - 1).clamp(min=0)
    return torch.where(torch.rand(count, device=device) < early_share, early, times)


def token_positions(is_picture: Tensor, number: Tensor) -> Tensor:
    """Return the positions (3, B, L) of sequences with at most one picture each. They equal those of `build_sequence`.

    Args:
        is_picture: whether each token is a picture's, (B, L).
        number: the index of each such token in its picture, (B, L).
    """
    moves_on = (~is_picture | (number == PICTURE_TOKENS - 1)).long()
    t = moves_on.cumsum(1) - moves_on
    row, column = number // GRID[1], number % GRID[1]
    nowhere = torch.zeros_like(t)
    return torch.stack([t, torch.where(is_picture, row, nowhere), torch.where(is_picture, column, nowhere)])
