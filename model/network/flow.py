"""Modules of flow matching: scalar embeddings, and the heads that predict the clean picture."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SINUSOID_WIDTH = 256


class ScalarEmbedding(nn.Module):
    """The embedding of a number (time, relative noise amplitude): sinusoids, Linear, SiLU, Linear."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.first = nn.Linear(SINUSOID_WIDTH, hidden_size)
        self.second = nn.Linear(hidden_size, hidden_size)

    def forward(self, values: Tensor) -> Tensor:
        """(S,) float32 → (S, hidden_size) in the weights' dtype."""
        return self.second(F.silu(self.first(sinusoids(values).to(self.first.weight.dtype))))


def sinusoids(values: Tensor) -> Tensor:
    """(S,) → (S, 256): cosines, then sines, of the unscaled value times 10000^(-i/128)."""
    half = SINUSOID_WIDTH // 2
    exponents = torch.arange(half, dtype=torch.float32, device=values.device) / half
    angles = values.float()[:, None] * torch.exp(-math.log(10000.0) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class MLPHead(nn.Module):
    """The head of U1. It predicts each token's 32×32 pixels from that token's hidden state."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(hidden_size, width)
        self.second = nn.Linear(width, 3 * 32 * 32)

    def forward(self, hidden: Tensor, rows: int, columns: int) -> Tensor:
        """(B, rows·columns, hidden_size) → predicted clean patches (B, rows·columns, 3·32²), channel-last."""
        return self.second(F.gelu(self.first(hidden)))


class ConvolutionalHead(nn.Module):
    """The head of U1.5: three pixel shuffles (2, 2 and 8-fold), with 3×3 convolutions that smooth tokens' edges."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(hidden_size // 4, width, kernel_size=3, padding=1)
        self.second = nn.Conv2d(width // 4, 3 * 8 * 8, kernel_size=3, padding=1)

    def forward(self, hidden: Tensor, rows: int, columns: int) -> Tensor:
        """(B, rows·columns, hidden_size) → predicted clean patches (B, rows·columns, 3·32²), channel-last."""
        grid = hidden.transpose(1, 2).unflatten(2, (rows, columns))
        grid = F.gelu(self.first(F.pixel_shuffle(grid, 2)))
        grid = self.second(F.pixel_shuffle(grid, 2))
        return picture_to_tokens(F.pixel_shuffle(grid, 8))


def picture_to_tokens(picture: Tensor) -> Tensor:
    """(B, 3, H, W) → (B, H/32 · W/32, 3·32²): one row a token, each flattened channel-last (p, q, c)."""
    patches = picture.unflatten(3, (-1, 32)).unflatten(2, (-1, 32))
    return patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def tokens_to_picture(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of `picture_to_tokens`: (B, rows·columns, 3·32²) → (B, 3, 32·rows, 32·columns)."""
    patches = tokens.unflatten(2, (32, 32, 3)).unflatten(1, (rows, columns))
    return patches.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
