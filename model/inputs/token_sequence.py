"""A prefix as the network reads it: token ids, pictures in their places, positions and segments."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.inputs.prompts import PICTURE_SLOT
from model.inputs.tokenizer import Tokenizer
from model.network.attention import Segment
from model.network.rope import image_positions, text_positions


@dataclass(frozen=True)
class TokenSequence:
    """One sequence before it is read.

    Attributes:
        ids: token ids, (N,); picture tokens hold `<IMG_CONTEXT>`.
        positions: (3, N), rows t, h, w.
        segments: text runs and pictures, in order; their counts sum to N.
        next_position: t of the token that follows.
    """

    ids: Tensor
    positions: Tensor
    segments: tuple[Segment, ...]
    next_position: int

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def image_tokens(self) -> int:
        return sum(segment.count for segment in self.segments if not segment.causal)

    @property
    def pictures(self) -> int:
        return sum(not segment.causal for segment in self.segments)

    def after(self, tokens: int) -> "TokenSequence":
        """What follows its first `tokens` tokens.

        Raises:
            ValueError: they end inside a picture, whose tokens have to be read together.
        """
        segments: list[Segment] = []
        skipped = tokens
        for segment in self.segments:
            if 0 < skipped < segment.count and not segment.causal:
                raise ValueError(f"{tokens} tokens end inside a picture")
            if skipped < segment.count:
                segments.append(Segment(segment.count - skipped, segment.causal))
            skipped = max(0, skipped - segment.count)
        return TokenSequence(self.ids[tokens:], self.positions[:, tokens:], tuple(segments), self.next_position)


def build_sequence(
    text: str, grids: Sequence[tuple[int, int]], tokenizer: Tokenizer, device: torch.device
) -> TokenSequence:
    """Tokenize a prompt whose picture slots stand for the pictures.

    A text token advances t by one. All tokens of a picture share the t after its `<img>` and have their row and
    column as h and w; `</img>` gets the t after that.

    Args:
        grids: rows and columns of each picture's tokens, as many as there are slots.
    """
    texts = text.split(PICTURE_SLOT)
    if len(texts) != len(grids) + 1:
        raise ValueError(f"{len(texts) - 1} slots for {len(grids)} pictures")
    ids: list[int] = []
    positions: list[Tensor] = []
    segments: list[Segment] = []
    t = 0
    for number, part in enumerate(texts):
        opened, closed = number < len(grids), number > 0
        run = tokenizer.encode(("</img>" if closed else "") + part + ("<img>" if opened else ""))
        if run:
            ids += run
            positions.append(text_positions(t, len(run), device))
            segments.append(Segment(len(run), causal=True))
            t += len(run)
        if opened:
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
