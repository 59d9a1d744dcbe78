"""Pictures in and out: resized to whole tokens and normalised; and back from the network's numbers."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from config.recommended import PixelRange
from config.sizes import MAX_ASPECT, TOKEN_PIXELS, Size, format_size
from model.errors import PictureError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

PICTURES_AT_FULL_BUDGET = 2
"""Up to this many input pictures of an edit each get the output's pixel count; more of them share it."""


def fit_size(size: Size, limits: PixelRange) -> Size:
    """The multiple-of-32 size nearest to a picture's own whose pixel count lies within the limits.

    Raises:
        PictureError: the picture is more than 200 times as long as it is wide, or the other way round.
    """
    width, height = size
    if max(size) / min(size) > MAX_ASPECT:
        raise PictureError(
            f"a picture of {format_size(size)} is too long: sides may differ by a factor of {MAX_ASPECT:g} at most",
            "crop it first",
        )
    fitted_w, fitted_h = (max(TOKEN_PIXELS, round(side / TOKEN_PIXELS) * TOKEN_PIXELS) for side in size)
    if fitted_w * fitted_h > limits.max:
        scale = math.sqrt(width * height / limits.max)
        fitted_w, fitted_h = (
            max(TOKEN_PIXELS, math.floor(side / scale / TOKEN_PIXELS) * TOKEN_PIXELS) for side in size
        )
    elif fitted_w * fitted_h < limits.min:
        scale = math.sqrt(limits.min / (width * height))
        fitted_w, fitted_h = (math.ceil(side * scale / TOKEN_PIXELS) * TOKEN_PIXELS for side in size)
    return fitted_w, fitted_h


def prepare_picture(image: Image.Image, limits: PixelRange) -> Tensor:
    """An RGB picture → (1, 3, H, W) float32, ImageNet-normalised, within the limits."""
    resized = image.resize(fit_size(image.size, limits))
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std


def to_image(picture: Tensor) -> Image.Image:
    """A picture as the network makes it, (1, 3, H, W) in about −1..1 → RGB, 8 bits a channel."""
    values = ((picture[0].float() * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(values.permute(1, 2, 0).cpu().numpy()))


def to_preview(picture: Tensor, longer_side: int) -> Image.Image:
    """A picture as the network makes it, (1, 3, H, W) in about −1..1 → a small RGB image, 8 bits a channel.

    The device averages squares of whole pixels, so that little is copied to the host. The host resizes the rest.

    Args:
        longer_side: of the result, in pixels; 0, or more than the picture has, keeps the picture's size. The shorter
            side is rounded up.
    """
    height, width = picture.shape[-2:]
    longest = max(height, width)
    if not 0 < longer_side < longest:
        return to_image(picture)
    factor = longest // longer_side
    pooled = to_image(avg_pool2d(picture, factor, ceil_mode=True))
    size = (math.ceil(width * longer_side / longest), math.ceil(height * longer_side / longest))
    # The last squares may reach beyond the picture's edge.
    return pooled.resize(size, Image.Resampling.BOX, box=(0, 0, width / factor, height / factor))


def fit_to_budget(images: Sequence[Image.Image], input_pixels: str | int, output: Size) -> list[Image.Image]:
    """Resize an edit's input pictures to their pixel budget, as the vendor's tool does before the network's own
    limits apply; where those differ the picture is resized once more (`prepare_picture`), as there.

    Args:
        input_pixels: `native` leaves them; a number is each picture's budget; `auto` is the output's pixel count,
            shared from the third picture on.
    """
    if input_pixels == "native":
        return list(images)
    budget = int(input_pixels) if input_pixels != "auto" else output[0] * output[1]
    if input_pixels == "auto" and len(images) > PICTURES_AT_FULL_BUDGET:
        budget = budget * PICTURES_AT_FULL_BUDGET // len(images)
    budget = max(budget, TOKEN_PIXELS**2)
    exactly = PixelRange(min=budget, max=budget)
    return [image.resize(fit_size(image.size, exactly), Image.Resampling.LANCZOS) for image in images]
