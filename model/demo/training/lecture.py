"""The lecture: the losses of pictures and texts that the demo's training minimises."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from config.sizes import TOKEN_PIXELS, Size
from model.demo.training.courses import ALL_COURSES, GROUPS, Group
from model.demo.training.rendering import STYLES, Stage
from model.demo.training.tables import Batch, Table
from model.demo.training.training_cache import TrainingCache
from model.inputs.image_tensors import prepare_drawn
from model.network.flow import picture_to_tokens
from model.network.rope import Rotary, attention_rotary, patch_rotary
from model.network.sensenova import SenseNovaU1
from model.sampling.schedule import noise_amplitude

TIME_MEAN, TIME_DEVIATION = -0.6, 1.0
"""Times are sigmoid(normal) with this mean and deviation: more of them have much noise than little."""
EARLY_SHARE, EARLY = 0.3, 0.03
"""Share of times that are drawn evenly below `EARLY`; half of them are 0. At such times only the prefix determines the
picture. From 0.05 on the noisy picture reveals it. A network that never had to use the prefix draws one of two things
at random."""
LEAST_NOISE = 0.1
"""Smallest value of 1 − t in the weight of the loss."""
SOURCE_NOISE = 0.03
"""Deviation of the noise that is added to input pictures in −1..1: users edit pictures that the model made."""


@dataclass(frozen=True)
class Rows:
    """A table on the device; see `Table`.

    Attributes:
        learned: row and column of each learned token, (2, learned tokens). The host finds them, so that it need not
            wait for the device.
    """

    tokens: Tensor
    learned: Tensor
    lengths: Tensor
    prefixes: Tensor
    sources: Tensor
    targets: Tensor
    things: int

    @classmethod
    def of(cls, table: Table, device: torch.device) -> "Rows":
        """Copy a table to a device."""
        learned = np.stack(np.nonzero(table.learned))
        numbers = (table.tokens, learned, table.lengths, table.prefixes, table.sources, table.targets)
        tokens, found, lengths, prefixes, sources, targets = (
            torch.from_numpy(each).to(device, non_blocking=True).long() for each in numbers
        )
        return cls(tokens, found, lengths, prefixes, sources, targets, table.things)


class Lecture:
    """The loss of training steps, with its parts by course.

    Attributes:
        sums: for each course, the sum of the pictures' losses and their number, and the sum of the texts' losses and
            the number of learned tokens, since `means` was called: (courses, 4) float32.
    """

    def __init__(self, network: SenseNovaU1, stage: Stage, context: int, early: float = EARLY_SHARE) -> None:
        """
        Args:
            context: the id of `<IMG_CONTEXT>`.
            early: the share of early times, 0 to 1; see EARLY_SHARE.
        """
        self._network, self._stage = network, stage
        self._context, self._early = context, early
        self._patches: dict[Size, Rotary] = {}
        self.sums = torch.zeros(len(ALL_COURSES), 4, device=network.device)

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the mean loss of a batch's pictures and that of its learned tokens, float32 scalars."""
        pictures, texts = [], []
        for group in GROUPS:
            rows = Rows.of(batch.tables[group.name], self._network.device)
            drawn, written, learned = self.group_losses(rows, group, batch.size, batch.rows)
            pictures.append(drawn)
            texts.append((written, learned))
            self._count(group, batch.rows, drawn, written, learned)
        text_loss = sum_of([written for written, _ in texts]) / sum_of([learned for _, learned in texts]).clamp(min=1)
        return torch.cat(pictures).mean(), text_loss

    def means(self) -> dict[str, dict[str, float]]:
        """Return the mean losses of each course, and of all together, since the last call."""
        sums, self.sums = self.sums.cpu(), torch.zeros_like(self.sums)
        named = [*zip([course.name for course in ALL_COURSES], sums, strict=True), ("all", sums.sum(0))]
        means: dict[str, dict[str, float]] = {}
        for name, (drawn, pictures, written, tokens) in ((name, values.tolist()) for name, values in named):
            parts = (("picture", drawn, pictures), ("text", written, tokens))
            means[name] = {part: total / count for part, total, count in parts if count}
        return means

    def group_losses(
        self, rows: Rows, group: Group, size: Size, numbers: Mapping[str, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the losses of a group's rows, float32.

        Args:
            numbers: number of rows of each course.

        Returns:
            The loss of each picture that is drawn, (pictures,); the sum of the losses of each row's learned tokens, and
            their number, (N,) each.
        """
        drawing = sum(numbers[course.name] for course in group.courses if course.draws)
        with torch.no_grad():
            sources = self._sources(rows, group, size, numbers)
            targets = picture_to_tokens(self._targets(rows, group, size, numbers))
        hidden, cache, positions = self.read(rows, sources, size)
        written, learned = self._text_losses(hidden, rows)
        prefixes = rows.prefixes[:drawing]
        next_positions = positions[0, :drawing].gather(1, prefixes[:, None] - 1)[:, 0] + 1
        drawn = self._picture_losses(targets, cache.first_rows(drawing), prefixes, next_positions, size)
        return drawn, written, learned

    def read(self, rows: Rows, sources: Tensor | None, size: Size) -> tuple[Tensor, TrainingCache, Tensor]:
        """Run the und tower over whole sequences.

        Args:
            sources: the pictures in the sequences, (N, K, 3, height, width) in −1..1; None if there are none.

        Returns:
            Hidden states (N, length, hidden_size); the cache; positions (3, N, length).
        """
        network, tokens = self._network, rows.tokens
        count, length = tokens.shape
        rows_of_tokens, columns = grid(size)
        embeddings = network.embed_tokens(tokens)
        is_picture = tokens == self._context
        index = (is_picture.cumsum(1) - 1).clamp(min=0)  # of a picture's token among those of all pictures in its row
        number, within = index // (rows_of_tokens * columns), index % (rows_of_tokens * columns)
        if sources is not None:
            pixels = prepare_drawn(sources.flatten(0, 1))
            seen = network.und_vision(pixels.to(network.dtype), self.patches(size)).unflatten(0, sources.shape[:2])
            seen = seen.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, seen.shape[-1]))
            embeddings = torch.where(is_picture[..., None], seen, embeddings)
        positions = token_positions(is_picture, within, size)
        cosines, sines = attention_rotary(positions.flatten(1), network.config.transformer, network.dtype)
        rotary = (cosines.view(count, 1, length, -1), sines.view(count, 1, length, -1))
        order = torch.arange(length, device=tokens.device)
        same = is_picture[:, :, None] & is_picture[:, None, :] & (number[:, :, None] == number[:, None, :])
        visible = (order[:, None] >= order) | same
        cache = TrainingCache()
        hidden = network.und(embeddings, [rotary], [cache], visible[:, None])
        return hidden, cache, positions

    def predict(
        self, noisy: Tensor, times: Tensor, cache: TrainingCache, prefixes: Tensor, next_positions: Tensor, size: Size
    ) -> Tensor:
        """Predict the clean pictures (B, L, 3·32²) behind prefixes of different lengths.

        Args:
            prefixes: number of tokens of each row of the cache that the picture sees, (B,).
            next_positions: t of the picture's tokens, (B,).
        """
        network, device = self._network, noisy.device
        count, prefix, (rows, columns) = len(noisy), cache.prefix_length, grid(size)
        flow = network.config.flow
        relative = torch.full((1,), noise_amplitude(rows * columns, flow) / flow.noise_scale_max, device=device)
        conditioning = network.timestep_embedder(times) + network.noise_scale_embedder(relative)
        embeddings = network.embed_noisy(noisy.to(network.dtype), conditioning, (rows, columns), self.patches(size))
        square = torch.arange(rows * columns, device=device)
        positions = torch.stack(
            [
                next_positions[:, None].expand(-1, len(square)),
                (square // columns).expand(count, -1),
                (square % columns).expand(count, -1),
            ]
        )
        cosines, sines = attention_rotary(positions.flatten(1), network.config.transformer, network.dtype)
        rotary = (cosines.view(count, 1, len(square), -1), sines.view(count, 1, len(square), -1))
        keys = torch.arange(prefix + len(square), device=device)
        visible = (keys < prefixes[:, None]) | (keys >= prefix)
        visible = visible[:, None, None, :].expand(-1, 1, len(square), -1)
        hidden = network.gen(embeddings, [rotary], [cache], visible)
        return network.fm_head(network.gen.norm(hidden), rows, columns)

    def patches(self, size: Size) -> Rotary:
        """Return the `patch_rotary` tables of pictures of a size."""
        if size not in self._patches:
            vision, (rows, columns) = self._network.config.vision, grid(size)
            self._patches[size] = patch_rotary(
                2 * rows, 2 * columns, vision.hidden_size, vision.rope_theta, self._network.device
            )
        return self._patches[size]

    def _sources(self, rows: Rows, group: Group, size: Size, numbers: Mapping[str, int]) -> Tensor | None:
        """Render the pictures in the sequences: (N, K, 3, height, width) in −1..1; None if the group has none."""
        if not group.pictures:
            return None
        pictures = self._stage.render(rows.sources.flatten(0, 1), size, rows.things).unflatten(0, (-1, group.pictures))
        counts = [numbers[course.name] for course in group.courses]
        parts = [
            STYLES[course.source_style](part.flatten(0, 1)).view_as(part)
            for course, part in zip(group.courses, pictures.split(counts), strict=True)
        ]
        styled = torch.cat(parts)
        if group.exact_sources:
            return styled
        return (styled + SOURCE_NOISE * torch.randn_like(styled)).clamp(-1, 1)

    def _targets(self, rows: Rows, group: Group, size: Size, numbers: Mapping[str, int]) -> Tensor:
        """Render the pictures to draw: (pictures, 3, height, width) in −1..1."""
        drawing = [course for course in group.courses if course.draws]
        counts = [numbers[course.name] for course in drawing]
        pictures = self._stage.render(rows.targets[: sum(counts)], size, rows.things)
        parts = pictures.split(counts)
        return torch.cat([STYLES[each.target_style](part) for each, part in zip(drawing, parts, strict=True)])

    def _text_losses(self, hidden: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return the sum of each row's losses and its number of learned tokens, (N,) each.

        Logits are computed for the learned tokens only. Most tokens belong to prompts and pictures.
        """
        row, column = rows.learned
        logits = self._network.logits(hidden[row, column - 1])
        losses = F.cross_entropy(logits, rows.tokens[row, column], reduction="none")
        sums = losses.new_zeros(2, len(hidden)).index_add(1, row, torch.stack([losses, torch.ones_like(losses)]))
        return sums[0], sums[1].detach()

    def _picture_losses(
        self, targets: Tensor, cache: TrainingCache, prefixes: Tensor, next_positions: Tensor, size: Size
    ) -> Tensor:
        """Return the squared error of the velocity (x̂ − x) / (1 − t), which sampling uses: the squared error of the
        predicted clean picture, with a weight. `targets` are (B, L, 3·32²)."""
        times = draw_times(len(targets), self._early, targets.device)
        t = times[:, None, None]
        amplitude = noise_amplitude(targets.shape[1], self._network.config.flow)
        noisy = t * targets + (1 - t) * amplitude * torch.randn_like(targets)
        predicted = self.predict(noisy, times, cache, prefixes, next_positions, size)
        errors = (predicted.float() - targets).square().mean(dim=(1, 2))
        return errors / (1 - times).clamp(min=LEAST_NOISE).square()

    @torch.no_grad()
    def _count(self, group: Group, numbers: Mapping[str, int], drawn: Tensor, written: Tensor, learned: Tensor) -> None:
        counts = [numbers[course.name] for course in group.courses]
        pictures = F.pad(drawn.detach(), (0, len(written) - len(drawn))).split(counts)
        parts = zip(group.courses, pictures, written.detach().split(counts), learned.split(counts), strict=True)
        first = ALL_COURSES.index(group.courses[0])
        for number, (course, pictures_of, written_of, learned_of) in enumerate(parts, start=first):
            count = torch.full((), float(len(pictures_of) if course.draws else 0), device=drawn.device)
            self.sums[number] += torch.stack([pictures_of.sum(), count, written_of.sum(), learned_of.sum()])


def sum_of(parts: list[Tensor]) -> Tensor:
    """Return the sum of all numbers in all parts."""
    return torch.cat(parts).sum()


def grid(size: Size) -> tuple[int, int]:
    """Return rows and columns of the tokens of a picture of a size (width, height)."""
    return size[1] // TOKEN_PIXELS, size[0] // TOKEN_PIXELS


def draw_times(count: int, early_share: float, device: torch.device) -> Tensor:
    """Draw times of noisy pictures, (count,), 0 to 1."""
    times = torch.sigmoid(TIME_MEAN + TIME_DEVIATION * torch.randn(count, device=device))
    early = EARLY * (2 * torch.rand(count, device=device) - 1).clamp(min=0)
    return torch.where(torch.rand(count, device=device) < early_share, early, times)


def token_positions(is_picture: Tensor, within: Tensor, size: Size) -> Tensor:
    """Return the positions (3, B, L) of sequences with pictures of one size. They equal those of `build_sequence`.

    Args:
        is_picture: whether each token is a picture's, (B, L).
        within: the index of each such token in its picture, (B, L).
    """
    rows, columns = grid(size)
    moves_on = (~is_picture | (within == rows * columns - 1)).long()
    t = moves_on.cumsum(1) - moves_on
    nowhere = torch.zeros_like(t)
    return torch.stack(
        [t, torch.where(is_picture, within // columns, nowhere), torch.where(is_picture, within % columns, nowhere)]
    )
