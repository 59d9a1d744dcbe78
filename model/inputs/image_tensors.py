"""Images and tensors: input images → tensors for the network, and the network's tensors → images."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from config.recommended import PixelRange
from config.sizes import MAX_ASPECT, TOKEN_PIXELS, Size, fit_pixels, format_size
from model.errors import PictureError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

IMAGES_AT_FULL_BUDGET = 2
"""Number of an edit's input images up to which each gets the output's pixel count. More images share it."""


def fit_size(size: Size, limits: PixelRange) -> Size:
    """Return the size nearest to an image's own whose sides are multiples of 32 and whose area is within the limits.

    Raises:
        PictureError: one side is more than 200 times as long as the other.
    """
    if max(size) / min(size) > MAX_ASPECT:
        raise PictureError(
            f"a picture of {format_size(size)} is too long: sides may differ by a factor of {MAX_ASPECT:g} at most",
            "crop it first",
        )
    return fit_pixels(size, limits.min, limits.max)


def prepare_image(image: Image.Image, limits: PixelRange) -> Tensor:
    """Resize an RGB image to the limits and normalise it as for ImageNet → (1, 3, H, W), float32."""
    resized = image.resize(fit_size(image.size, limits))
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float() / 255
    return _normalise(pixels)


def prepare_drawn(pixels: Tensor) -> Tensor:
    """Normalise a picture that the network has drawn, (1, 3, H, W), about −1..1, as an input image → float32.

    It is neither clamped nor rounded nor resized, so that the model reads exactly what it drew.
    """
    return _normalise(pixels.float() * 0.5 + 0.5)


def _normalise(pixels: Tensor) -> Tensor:
    """Normalise pixels from 0..1 as for ImageNet."""
    mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std


def to_image(pixels: Tensor) -> Image.Image:
    """Convert the network's pixels (1, 3, H, W), about −1..1, to an RGB image with 8 bits per channel."""
    values = ((pixels[0].float() * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(values.permute(1, 2, 0).cpu().numpy()))


def to_preview(pixels: Tensor, longer_side: int) -> Image.Image:
    """Convert the network's pixels (1, 3, H, W), about −1..1, to a small RGB image with 8 bits per channel.

    The device averages squares of pixels first, so that little is copied to the host, which resizes the result.

    Args:
        longer_side: the preview's longer side in pixels. 0, or more than the image has, keeps the image's size. The
            shorter side is rounded up.
    """
    height, width = pixels.shape[-2:]
    longest = max(height, width)
    if not 0 < longer_side < longest:
        return to_image(pixels)
    factor = longest // longer_side
    pooled = to_image(avg_pool2d(pixels, factor, ceil_mode=True))
    size = (math.ceil(width * longer_side / longest), math.ceil(height * longer_side / longest))
    # The last squares may extend beyond the image's edge.
    return pooled.resize(size, Image.Resampling.BOX, box=(0, 0, width / factor, height / factor))


def fit_to_budget(images: Sequence[Image.Image], input_pixels: str | int, output: Size) -> list[Image.Image]:
    """Resize an edit's input images to their pixel budget, as the vendor's tool does.

    `prepare_image` resizes an image once more if the network's own limits differ, as the vendor's tool does, too.

    Args:
        input_pixels: `native` keeps the images' sizes. A number is the budget of each image. With `auto` it is the
            output's pixel count, which three and more images share.
    """
    if input_pixels == "native":
        return list(images)
    budget = int(input_pixels) if input_pixels != "auto" else output[0] * output[1]
    if input_pixels == "auto" and len(images) > IMAGES_AT_FULL_BUDGET:
        budget = budget * IMAGES_AT_FULL_BUDGET // len(images)
    budget = max(budget, TOKEN_PIXELS**2)
    exactly = PixelRange(min=budget, max=budget)
    return [image.resize(fit_size(image.size, exactly), Image.Resampling.LANCZOS) for image in images]
