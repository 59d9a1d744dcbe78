"""The measure of likeness that benchmarks tell."""

import numpy as np
import pytest

from benchmarks.similarity import ssim


def test_ssim_is_that_of_scikit_image() -> None:
    """0.75545: `structural_similarity(…, channel_axis=2, gaussian_weights=True, use_sample_covariance=False)`."""
    random = np.random.default_rng(7)
    picture = np.kron(random.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    noisy = np.clip(picture.astype(int) + random.integers(-40, 41, picture.shape), 0, 255).astype(np.uint8)
    assert ssim(picture, picture) == pytest.approx(1.0)
    assert ssim(picture, noisy) == pytest.approx(0.7554452004315231)
