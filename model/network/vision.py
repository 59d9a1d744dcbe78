"""The image embedding: from pixels to one hidden state per 32×32-pixel token, without transformer layers."""

import torch.nn.functional as F
from torch import Tensor, nn

from model.network.configuration import VisionConfig
from model.network.rope import Rotary, rotate_patches


class ImageEmbedding(nn.Module):
    """The image embedding of one tower. Each tower has weights of its own.

    The two convolutions have kernels as large as their strides. They are therefore matrix products over flattened
    patches, channel-first: `patch` (3·16² → width), `merge` (width·2² → hidden_size).
    """

    def __init__(self, config: VisionConfig, hidden_size: int) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.patch = nn.Linear(3 * config.patch_size**2, config.hidden_size)
        self.merge = nn.Linear(config.hidden_size * 4, hidden_size)

    def forward(self, pixels: Tensor, rotary: Rotary) -> Tensor:
        """Embed images of one size.

        Args:
            pixels: (B, 3, H, W), sides multiples of 32.
            rotary: `patch_rotary` tables for the (H/16, W/16) grid.

        Returns:
            (B, H/32 · W/32, hidden_size), row-major.
        """
        rows, columns = (side // self.patch_size for side in pixels.shape[-2:])
        patches = F.gelu(self.patch(flatten_patches(pixels, self.patch_size)))
        patches = rotate_patches(patches, rotary)
        squares = patches.unflatten(1, (rows // 2, 2, columns // 2, 2)).permute(0, 1, 3, 5, 2, 4)
        return self.merge(squares.flatten(3).flatten(1, 2))


def flatten_patches(pixels: Tensor, size: int) -> Tensor:
    """(B, C, H, W) → (B, H/size · W/size, C·size²): patches row-major, each flattened channel-first (c, p, q)."""
    patches = pixels.unflatten(3, (-1, size)).unflatten(2, (-1, size))
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
