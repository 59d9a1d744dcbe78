"""Measures of the likeness of two pictures: PSNR and SSIM, and a picture of the difference."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

LARGEST = 255
"""Largest value of a channel."""
WINDOW, SIGMA = 11, 1.5
"""Side in pixels of SSIM's window, and the standard deviation of its Gaussian weights."""
K1, K2 = 0.01, 0.03
"""Constants of SSIM, which keep its divisors above zero."""
BAND = 32
"""Rows that are measured at once, so that a large picture needs little memory."""

Floats = NDArray[np.float64]


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Return the peak signal-to-noise ratio of two RGB pictures of the same size, in dB; infinity for equal pixels.

    It is 10 log10(255² / MSE), with the mean squared error over all pixels and channels.
    """
    total = sum(float(np.square(first - second).sum()) for first, second in _bands(one, other, 0))
    return math.inf if total == 0 else 10 * math.log10(LARGEST**2 / (total / (one.width * one.height * 3)))


def ssim(one: Image.Image, other: Image.Image) -> float | None:
    """Return the structural similarity of two RGB pictures of the same size; 1 for equal pixels. It is None for
    pictures that are smaller than the window.

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", IEEE
    Transactions on Image Processing 13(4), 2004, equation 13: a Gaussian window of 11×11 pixels with sigma 1.5, K1
    0.01, K2 0.03 and values up to 255; the mean over all windows inside the picture, and over the three channels. The
    pictures are not made smaller before.
    """
    if min(one.size) < WINDOW:
        return None
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    c1, c2 = (K1 * LARGEST) ** 2, (K2 * LARGEST) ** 2
    total, count = 0.0, 0
    for x, y in _bands(one, other, WINDOW - 1):
        if len(x) < WINDOW:
            continue  # the windows of these rows are in the band before
        mean_x, mean_y, xx, yy, xy = (_windowed(values, weights) for values in (x, y, x * x, y * y, x * y))
        variance_x, variance_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
        luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
        total += float((luminance * structure).sum())
        count += luminance.size
    return total / count


def largest_difference(one: Image.Image, other: Image.Image) -> int:
    """Return the largest difference of a channel between two RGB pictures of the same size, from 0 to 255."""
    extrema = ImageChops.difference(one, other).getextrema()
    return max(int(high) for _, high in extrema)  # type: ignore[misc]  # one pair for each channel


def difference_image(one: Image.Image, other: Image.Image) -> tuple[Image.Image, int]:
    """Return the absolute difference of two RGB pictures of the same size, and the whole number by which it is
    multiplied, so that small differences are visible."""
    largest = largest_difference(one, other)
    factor = max(1, LARGEST // largest) if largest else 1
    return ImageChops.difference(one, other).point([min(LARGEST, value * factor) for value in range(256)] * 3), factor


def _bands(one: Image.Image, other: Image.Image, overlap: int) -> Iterator[tuple[Floats, Floats]]:
    """Yield the pixels of both pictures, (rows, width, 3), in bands of BAND rows and `overlap` rows of the next one."""
    for top in range(0, one.height, BAND):
        box = (0, top, one.width, min(top + BAND + overlap, one.height))
        yield np.asarray(one.crop(box), np.float64), np.asarray(other.crop(box), np.float64)


def _windowed(values: Floats, weights: Floats) -> Floats:
    """Return the weighted means over all windows inside a band. The window is a product of two lines of weights."""
    rows, columns = (values.shape[axis] - WINDOW + 1 for axis in (0, 1))
    down = _sum([values[start : start + rows] for start in range(WINDOW)], weights)
    return _sum([down[:, start : start + columns] for start in range(WINDOW)], weights)


def _sum(parts: Sequence[Floats], weights: Floats) -> Floats:
    """Return the weighted sum of arrays. It reuses its memory, which is twice as fast as `sum`."""
    total, product = parts[0] * weights[0], np.empty_like(parts[0])
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total += np.multiply(part, weight, out=product)
    return total
