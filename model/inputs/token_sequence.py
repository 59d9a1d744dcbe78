"""Token sequences: a prompt and its images as token ids, positions and segments."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from model.inputs.prompts import IMAGE_SLOT
from model.inputs.tokenizer import Tokenizer
from model.network.attention import Segment
from model.network.rope import image_positions, text_positions


@dataclass(frozen=True)
class TokenSequence:
    """A sequence of N tokens before its prefill.

    Attributes:
        ids: token ids, (N,); image tokens are `<IMG_CONTEXT>`.
        positions: (3, N), rows t, h, w.
        segments: runs of text and images, in order; their counts sum to N.
        next_position: t of the token that follows the sequence.
    """

    ids: Tensor
    positions: Tensor
    segments: tuple[Segment, ...]
    next_position: int

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def image_tokens(self) -> int:
        """Number of image tokens."""
        return sum(segment.count for segment in self.segments if not segment.causal)

    @property
    def images(self) -> int:
        """Number of images."""
        return sum(not segment.causal for segment in self.segments)

    def after(self, tokens: int) -> "TokenSequence":
        """Return the sequence without its first `tokens` tokens.

        Raises:
            ValueError: they end inside an image, whose tokens must be processed together.
        """
        segments: list[Segment] = []
        skipped = tokens
        for segment in self.segments:
            if 0 < skipped < segment.count and not segment.causal:
                raise ValueError(f"{tokens} tokens end inside an image")
            if skipped < segment.count:
                segments.append(Segment(segment.count - skipped, segment.causal))
            skipped = max(0, skipped - segment.count)
        return TokenSequence(self.ids[tokens:], self.positions[:, tokens:], tuple(segments), self.next_position)

    def split_long_texts(self, before: int, rows: int, work: int) -> "list[TokenSequence]":
        """Return the sequence in parts whose prefills take about the same time. Images stay whole.

        Args:
            before: tokens before the sequence, which its tokens see.
            rows: a part may begin after every `rows` tokens of a text.
            work: most pairs of a token and a token before it in a part; more if a part cannot be smaller.
        """
        starts, start = [0], 0
        for segment in self.segments:
            end = start + segment.count
            for boundary in range(start + rows, end, rows) if segment.causal else ():
                longer = min(boundary + rows, end)
                if (longer - starts[-1]) * (before + longer) > work:
                    starts.append(boundary)
            start = end
        return [self.after(begin)._first(end - begin) for begin, end in pairwise((*starts, start))]

    def _first(self, tokens: int) -> "TokenSequence":
        """Return the first `tokens` tokens, which end inside a text or at the end of the sequence."""
        segments: list[Segment] = []
        left = tokens
        for segment in self.segments:
            if left:
                segments.append(Segment(min(left, segment.count), segment.causal))
            left = max(0, left - segment.count)
        whole = tokens == len(self)
        end = self.next_position if whole else int(self.positions[0, tokens])
        return TokenSequence(self.ids[:tokens], self.positions[:, :tokens], tuple(segments), end)


def build_sequence(
    text: str, grids: Sequence[tuple[int, int]], tokenizer: Tokenizer, device: torch.device, first_position: int = 0
) -> TokenSequence:
    """Tokenize a prompt with image slots.

    A text token advances t by one. All tokens of an image share the t after its `<img>`; their h and w are their row
    and column. `</img>` has the next t.

    Args:
        grids: rows and columns of each image's tokens, one pair per slot.
        first_position: t of the first token.
    """
    texts = text.split(IMAGE_SLOT)
    if len(texts) != len(grids) + 1:
        raise ValueError(f"{len(texts) - 1} slots for {len(grids)} images")
    ids: list[int] = []
    positions: list[Tensor] = []
    segments: list[Segment] = []
    t = first_position
    for number, part in enumerate(texts):
        starts_image, follows_image = number < len(grids), number > 0
        run = tokenizer.encode(("</img>" if follows_image else "") + part + ("<img>" if starts_image else ""))
        if run:
            ids += run
            positions.append(text_positions(t, len(run), device))
            segments.append(Segment(len(run), causal=True))
            t += len(run)
        if starts_image:
            rows, columns = grids[number]
            ids += [tokenizer.image_context] * (rows * columns)
            positions.append(image_positions(t, rows, columns, device))
            segments.append(Segment(rows * columns, causal=False))
            t += 1
    return TokenSequence(
        torch.tensor(ids, dtype=torch.long, device=device),
        torch.cat(positions, dim=1),
        tuple(segments),
        t,
    )
