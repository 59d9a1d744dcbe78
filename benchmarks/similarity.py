"""How alike two pictures are to the eye."""

import numpy as np
import torch
import torch.nn.functional as F

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def ssim(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Structural similarity of two RGB pictures, (height, width, 3) uint8: 1 where they are equal.

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", IEEE
    Transactions on Image Processing 13(4), 2004, equation 13: a Gaussian window of 11 pixels, sigma 1.5, K1 0.01, K2
    0.03; the mean over all windows that lie within the picture, and over the three channels.
    """
    x, y = (torch.from_numpy(each.astype(np.float64)).permute(2, 0, 1)[:, None] for each in (ours, theirs))
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    line = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    line /= line.sum()
    window = torch.outer(line, line)[None, None]
    mean_x, mean_y, xx, yy, xy = (F.conv2d(each, window) for each in (x, y, x * x, y * y, x * y))
    variance_x, variance_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    c1, c2 = (K1 * 255) ** 2, (K2 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return float((luminance * structure).mean())
