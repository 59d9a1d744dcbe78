"""The lecture: the losses of pictures and texts that the demo's training minimises."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.demo.training.curriculum import Courses, Rows, Sizes
from model.demo.training.rendering import Stage
from model.demo.training.variety import Settled, features_of
from model.demo.training.world import Style
from model.inputs.image_tensors import IMAGENET_MEAN, IMAGENET_STD
from model.network.cache import KVCache
from model.network.rope import Rotary, attention_rotary, patch_rotary, rotate_patches
from model.network.sensenova import SenseNovaU1
from model.network.vision import ImageEmbedding

TIME_MEAN, TIME_DEVIATION = -0.6, 1.0
"""Times are sigmoid(normal) with this mean and deviation: more of them have much noise than little."""
EARLY_SHARE, EARLY = 0.3, 0.03
"""Share of times that are drawn evenly below `EARLY`; half of them are 0. At such times only the prefix and the noise
determine the picture. From 0.05 on the noisy picture reveals it. A network that never had to use the prefix draws one of
two things at random."""
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

    def joined(self, other: "TrainingCache | None", rows: int) -> "TrainingCache":
        """Return a complete cache: the first `rows` of this one, then those of another with longer prefixes."""
        both = TrainingCache()
        if other is None:
            both._keys, both._values = ([each[:rows] for each in own] for own in (self._keys, self._values))
        else:
            both._keys = [_stacked(mine[:rows], theirs) for mine, theirs in zip(self._keys, other._keys, strict=True)]
            both._values = [
                _stacked(mine[:rows], theirs) for mine, theirs in zip(self._values, other._values, strict=True)
            ]
        both._complete = True
        return both


def _stacked(short: Tensor, long: Tensor) -> Tensor:
    return torch.cat([F.pad(short, (0, 0, 0, long.shape[2] - short.shape[2])), long])


class Lecture(nn.Module):
    """The loss of one training step, as a module that can be compiled.

    Pictures of different sizes are in one batch. They are padded to the same number of tokens, and a token's row and
    column come from tables. Only the last convolutions need the shape of a picture, and run size by size.
    """

    def __init__(
        self, network: SenseNovaU1, stage: Stage, courses: Courses, sizes: Sizes, early: float, story_grids: Sequence[int]
    ) -> None:
        """
        Args:
            early: the share of early times, 0 to 1; see EARLY_SHARE.
            story_grids: the size of each row of stories.
        """
        super().__init__()
        self.network = network
        self._early = early
        self._courses = courses
        self._stage = stage
        self._length = sizes.length
        config, device = network.config, network.device
        vision, self._scale_max = config.vision, config.flow.noise_scale_max
        tables = [_patch_tables(rows, columns, self._length, vision, device) for rows, columns in sizes.grids]
        self._cosines, self._sines = (torch.stack(each) for each in zip(*tables, strict=True))
        mean, deviation = (torch.tensor(values, device=device).repeat(32 * 32) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self._mean, self._deviation = mean, deviation  # of a token's channel-last numbers
        counts = [rows * columns for rows, columns in sizes.grids]
        self._amplitudes = torch.tensor([math.sqrt(count / 64) for count in counts], device=device)
        self._grids = sizes.grids
        drawn = [row % len(sizes.grids) for course in (*courses.generating, *courses.with_pictures) for row in range(course.rows)]
        drawn += story_grids
        self._rows_of_size = [
            torch.tensor([row for row, grid in enumerate(drawn) if grid == index], device=device)
            for index in range(len(sizes.grids))
        ]

    def forward(self, lessons: Rows, stories: Rows | None) -> tuple[Tensor, Tensor]:
        """Return the pictures' loss and the texts' loss, float32 scalars.

        Args:
            lessons: rows of `Courses.lessons`.
            stories: rows of `Courses.stories`; None without any.
        """
        courses, drawing = self._courses, self._courses.drawing
        wordy = sum(course.rows for course in courses.generating)
        read = [(course.source_style, course.rows) for course in (*courses.with_pictures, *courses.answering)]
        hidden, cache = self._read(lessons, wordy, read)
        losses, learned = self._text_losses(hidden, lessons)
        groups, story_cache = [(lessons, drawing)], None
        if stories is not None:
            count = len(stories.tokens)
            hidden, story_cache = self._read(stories, 0, [("plain", count)])
            more, of_them = self._text_losses(hidden, stories)
            losses, learned = losses + more, learned + of_them
            groups.append((stories, count))
        names = ("target", "keeps", "cut", "next_place", "grids")
        target, keeps, cut, next_place, grids = (
            torch.cat([getattr(rows, name)[:count] for rows, count in groups]) for name in names
        )
        features = torch.cat([rows.features[:count, 0] for rows, count in groups])
        styles = [(course.target_style, course.rows) for course in (*courses.generating, *courses.with_pictures)]
        styles += [("plain", len(cut) - drawing)]
        with torch.no_grad():
            rows, columns, tokens = self._stage.tokens_of(grids)
            noise = torch.randn(len(cut), self._length, 3 * 32 * 32, device=cut.device) * (rows >= 0)[..., None]
            decided = torch.where(keeps[:, None], features, features_of(noise, tokens))
            targets = self._painted(target, decided, grids, styles)
        picture_loss = self._picture_loss(targets, noise, cache.joined(story_cache, drawing), cut, next_place, grids, rows, columns)
        return picture_loss, losses / learned.clamp(min=1)

    def _painted(self, codes: Tensor, features: Tensor, grids: Tensor, styles: Sequence[tuple[Style, int]]) -> Tensor:
        """Render pictures, with each style for its number of consecutive rows: tokens (B, L, 3·32²)."""
        settled, parts, start = self._stage.settler.settle(codes, features), [], 0
        for style, count in styles:
            part = slice(start, start + count)
            own = Settled(settled.background[part], settled.shade[part], settled.colors[part], settled.choice[part])
            parts.append(self._stage.render(codes[part], own, grids[part], style))
            start += count
        return torch.cat(parts)

    def _read(self, rows: Rows, wordy: int, styles: Sequence[tuple[Style, int]]) -> tuple[Tensor, TrainingCache]:
        """Run the und tower over whole sequences; return hidden states and the cache.

        Args:
            wordy: number of rows at the start that have no picture.
            styles: styles of the pictures in the other rows, each with its number of rows.
        """
        network, length = self.network, rows.tokens.shape[1]
        is_picture = rows.numbers >= 0
        embeddings = network.embed_tokens(rows.tokens)
        if wordy < len(embeddings):
            seen = self._seen(rows, wordy, styles)
            shown = torch.where(is_picture[wordy:, :, None], seen, embeddings[wordy:])
            embeddings = torch.cat([embeddings[:wordy], shown])
        token_rows, token_columns, _ = self._stage.tokens_of(rows.grids)
        inside = rows.numbers.clamp(min=0)
        down, across = (torch.where(is_picture, each.gather(1, inside), 0) for each in (token_rows, token_columns))
        rotary = self._rotary(rows.places, down, across)
        order = torch.arange(length, device=rows.tokens.device)
        visible = (order[:, None] >= order) | (is_picture[:, None] & (rows.places[:, :, None] == rows.places[:, None]))
        cache = TrainingCache()
        return network.und(embeddings, [rotary], [cache], visible[:, None]), cache

    def _seen(self, rows: Rows, wordy: int, styles: Sequence[tuple[Style, int]]) -> Tensor:
        """Return the embeddings of the pictures' tokens in all rows but the first ones, (B, N, hidden_size)."""
        pictures = rows.pictures.shape[1]
        with torch.no_grad():
            grids = rows.grids[wordy:].repeat_interleave(pictures)
            codes, features = rows.pictures[wordy:].flatten(0, 1), rows.features[wordy:].flatten(0, 1)
            seen = self._painted(codes, features, grids, [(style, count * pictures) for style, count in styles])
            seen = (seen + SOURCE_NOISE * torch.randn_like(seen)).clamp(-1, 1)
            seen = ((seen * 0.5 + 0.5) - self._mean) / self._deviation
        embedded = self._embedded(self.network.und_vision, seen, grids).unflatten(0, (-1, pictures)).flatten(1, 2)
        number = (rows.which[wordy:] * self._length + rows.numbers[wordy:]).clamp(min=0)
        return embedded.gather(1, number[..., None].expand(-1, -1, embedded.shape[-1]))

    def _text_losses(self, hidden: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return the sum of the learned tokens' losses, and their number."""
        logits = self.network.logits(hidden[:, :-1])
        learned = rows.learned[:, 1:].float()
        losses = F.cross_entropy(logits.flatten(0, 1), rows.tokens[:, 1:].flatten(), reduction="none")
        return (losses * learned.flatten()).sum(), learned.sum()

    def _picture_loss(
        self, targets: Tensor, noise: Tensor, cache: TrainingCache, cut: Tensor, next_place: Tensor, grids: Tensor,
        rows: Tensor, columns: Tensor,
    ) -> Tensor:  # fmt: skip
        """Return the squared error of the velocity (x̂ − x) / (1 − t), which sampling uses: the squared error of the
        predicted clean picture, with a weight. `targets` are (B, L, 3·32²)."""
        times = draw_times(len(targets), self._early, targets.device)
        t = times[:, None, None]
        noisy = t * targets + (1 - t) * self._amplitudes[grids][:, None, None] * noise
        hidden = self._drawn(noisy, times, cache, cut, next_place, grids, rows, columns)
        weights = 1 / (1 - times).clamp(min=LEAST_NOISE).square()
        losses = []
        for (height, width), of_size in zip(self._grids, self._rows_of_size, strict=True):
            if not len(of_size):
                continue
            own = slice(None) if len(self._grids) == 1 else of_size
            count = height * width
            predicted = self.network.fm_head(hidden[own, :count], height, width)
            errors = (predicted.float() - targets[own, :count]).square().mean(dim=(1, 2))
            losses.append((errors * weights[own]).sum())
        return torch.stack(losses).sum() / len(targets)

    def _drawn(
        self, noisy: Tensor, times: Tensor, cache: TrainingCache, cut: Tensor, next_place: Tensor, grids: Tensor,
        rows: Tensor, columns: Tensor,
    ) -> Tensor:  # fmt: skip
        """Run the gen tower over noisy pictures behind prefixes of different lengths; return the head's input."""
        network, prefix = self.network, cache.prefix_length
        conditioning = network.timestep_embedder(times)
        conditioning = conditioning + network.noise_scale_embedder(self._amplitudes[grids] / self._scale_max)
        embeddings = self._embedded(network.gen_vision, noisy, grids) + conditioning[:, None]
        rotary = self._rotary(next_place[:, None].expand_as(rows), rows.clamp(min=0), columns.clamp(min=0))
        keys = torch.arange(prefix, device=noisy.device)
        visible = torch.cat([keys < cut[:, None], rows >= 0], dim=1)
        visible = visible[:, None, None, :].expand(-1, 1, self._length, -1)
        return network.gen.norm(network.gen(embeddings, [rotary], [cache], visible))

    def _embedded(self, vision: ImageEmbedding, tokens: Tensor, grids: Tensor) -> Tensor:
        """Embed pictures that are given as tokens (B, L, 3·32²): what `ImageEmbedding` does, token by token."""
        patches = tokens.to(self.network.dtype).unflatten(2, (2, 16, 2, 16, 3)).permute(0, 1, 2, 4, 6, 3, 5)
        patches = F.gelu(vision.patch(patches.flatten(4).flatten(1, 3)))
        patches = rotate_patches(patches, (self._cosines[grids], self._sines[grids]))
        return vision.merge(patches.unflatten(1, (-1, 4)).transpose(2, 3).flatten(2))

    def _rotary(self, places: Tensor, rows: Tensor, columns: Tensor) -> Rotary:
        count, length = places.shape
        positions = torch.stack([places, rows, columns]).flatten(1)
        cosines, sines = attention_rotary(positions, self.network.config.transformer, self.network.dtype)
        return cosines.view(count, 1, length, -1), sines.view(count, 1, length, -1)


def _patch_tables(rows: int, columns: int, length: int, vision: object, device: torch.device) -> Rotary:
    """Return the patches' rotary tables in the order of tokens, four patches each, padded to `length` tokens."""
    cosines, sines = patch_rotary(2 * rows, 2 * columns, vision.hidden_size, vision.rope_theta, device)  # type: ignore[attr-defined]
    tables = []
    for table in (cosines, sines):
        grouped = table.unflatten(0, (rows, 2, columns, 2)).transpose(1, 2).flatten(0, 3)
        tables.append(F.pad(grouped, (0, 0, 0, 4 * (length - rows * columns))))
    return tables[0], tables[1]


def draw_times(count: int, early_share: float, device: torch.device) -> Tensor:
    """Draw times of noisy pictures, (count,), 0 to 1."""
    times = torch.sigmoid(TIME_MEAN + TIME_DEVIATION * torch.randn(count, device=device))
    early = EARLY * (2 * torch.rand(count, device=device) - 1).clamp(min=0)
    return torch.where(torch.rand(count, device=device) < early_share, early, times)
