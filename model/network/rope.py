"""Rotary position embeddings: three-axis (t, h, w) in attention, two-axis (x, y) in the image embedding."""

import torch
from torch import Tensor

from model.network.configuration import TransformerConfig

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines, each (N, head_dim), or (B, 1, N, head_dim) where sequences differ, in the model's dtype."""


def text_positions(start: int, count: int, device: torch.device) -> Tensor:
    """Return positions of `count` text tokens from t = `start`: (3, count), rows t, h, w; h = w = 0."""
    positions = torch.zeros(3, count, dtype=torch.long, device=device)
    positions[0] = torch.arange(start, start + count, device=device)
    return positions


def image_positions(t: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """Return positions of an image's tokens, row-major: (3, rows·columns); all share `t`."""
    positions = torch.empty(3, rows * columns, dtype=torch.long, device=device)
    positions[0] = t
    positions[1] = torch.arange(rows, device=device).repeat_interleave(columns)
    positions[2] = torch.arange(columns, device=device).repeat(rows)
    return positions


def attention_rotary(positions: Tensor, config: TransformerConfig, dtype: torch.dtype) -> Rotary:
    """Return tables for positions (3, N): angles p·theta^(-2i/d), with d the width of t's, h's or w's part of a head.

    The sines of the first half of each part are negative, as `rotate_heads_` needs them.
    """
    half, quarter = config.head_dim // 2, config.head_dim // 4
    cosines, sines = [], []
    for axis, width, theta in (
        (0, half, config.rope_theta),
        (1, quarter, config.rope_theta_hw),
        (2, quarter, config.rope_theta_hw),
    ):
        angle = torch.outer(positions[axis].float(), _frequencies(width, theta, positions.device))
        cosines += [angle.cos()] * 2
        sines += [-angle.sin(), angle.sin()]
    return torch.cat(cosines, dim=-1).to(dtype), torch.cat(sines, dim=-1).to(dtype)


def rotate_heads_(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotate (…, N, head_dim) in place by its tables: rotate-half within each of the three parts of a head.

    A copy of x would be one of the largest tensors of a long prefix.
    """
    cos, signed_sin = rotary
    turned = _swap_halves(x).mul_(signed_sin)
    return x.mul_(cos).add_(turned)


def _swap_halves(x: Tensor) -> Tensor:
    """Swap the halves of each of the three parts of a head: (a, b) → (b, a)."""
    half = x.shape[-1] // 2
    swapped: list[Tensor] = []
    for part in x.split((half, half // 2, half // 2), dim=-1):
        swapped += reversed(part.chunk(2, dim=-1))
    return torch.cat(swapped, dim=-1)


def patch_rotary(rows: int, columns: int, channels: int, theta: float, device: torch.device) -> Rotary:
    """Return tables for a grid of patches, row-major: cosines and sines (rows·columns, channels/2), float32.

    The first half of the channel pairs is rotated by the column x, the second half by the row y.
    """
    frequencies = _frequencies(channels // 2, theta, device)
    x = torch.arange(columns, device=device, dtype=torch.float32).repeat(rows)
    y = torch.arange(rows, device=device, dtype=torch.float32).repeat_interleave(columns)
    angle = torch.cat([torch.outer(x, frequencies), torch.outer(y, frequencies)], dim=-1)
    return angle.cos(), angle.sin()


def rotate_patches(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotate (…, N, channels) by pairs (even, odd) of channels, in float32; returns x's dtype."""
    cos, sin = rotary
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


def _frequencies(width: int, theta: float, device: torch.device) -> Tensor:
    """Return theta^(-2i/width) for i < width/2, float32."""
    return theta ** -(torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
