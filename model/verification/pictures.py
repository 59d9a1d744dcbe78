"""Comparison of a drawn picture with the pixels that it should have."""

from dataclasses import dataclass

from PIL import Image

from config.sizes import format_size
from model.verification.checks import PictureCheck


@dataclass(frozen=True)
class PixelComparison:
    """One pixel: its expected color, its found color, and the largest difference of a channel."""

    at: tuple[int, int]
    expected: tuple[int, int, int]
    found: tuple[int, int, int]
    difference: int
    passed: bool


@dataclass(frozen=True)
class PictureComparison:
    """A drawn picture beside its check.

    Attributes:
        problem: why the picture fails as a whole, such as a wrong size; empty otherwise. It then has no pixels.
    """

    pixels: tuple[PixelComparison, ...]
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether the size is right and every pixel is within the tolerance."""
        return not self.problem and all(pixel.passed for pixel in self.pixels)


def compare_picture(check: PictureCheck, image: Image.Image, tolerance: int) -> PictureComparison:
    """Compare a picture with the expected pixels of its check."""
    if image.size != check.size:
        return PictureComparison((), f"it is {format_size(image.size)}, not {format_size(check.size)}")
    rgb = image.convert("RGB")
    pixels = []
    for pixel in check.pixels:
        found = rgb.getpixel(pixel.at)
        assert isinstance(found, tuple)
        red, green, blue = found
        difference = max(abs(a - b) for a, b in zip(found, pixel.rgb, strict=True))
        pixels.append(PixelComparison(pixel.at, pixel.rgb, (red, green, blue), difference, difference <= tolerance))
    return PictureComparison(tuple(pixels))
