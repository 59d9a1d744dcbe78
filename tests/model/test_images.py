"""How input pictures are resized."""

import pytest
import torch
from PIL import Image

from config.recommended import PixelRange, Recommended
from model.errors import PictureError
from model.sequences.images import fit_size, fit_to_budget, prepare_picture, to_image

ANSWER = Recommended().answer_input


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((640, 480), (640, 480)),
        ((301, 517), (288, 512)),
        ((900, 200), (896, 192)),
        ((8000, 6000), (2336, 1760)),
        ((100, 100), (256, 256)),
        ((2, 200), (32, 2560)),
    ],
)
def test_sizes_stay_within_the_limits(size: tuple[int, int], fitted: tuple[int, int]) -> None:
    assert fit_size(size, ANSWER) == fitted
    assert ANSWER.min <= fitted[0] * fitted[1] <= ANSWER.max


def test_too_long() -> None:
    with pytest.raises(PictureError, match="too long"):
        fit_size((2, 402), ANSWER)


def test_several_edit_pictures_share_the_pixels() -> None:
    assert Recommended().edit_limits(2) == PixelRange(min=512**2, max=2048**2)
    assert Recommended().edit_limits(8) == PixelRange(min=512**2, max=4096**2 // 8)


def test_prepared_pictures_are_normalised() -> None:
    pixels = prepare_picture(Image.new("RGB", (320, 256), (255, 0, 128)), ANSWER)
    assert pixels.shape == (1, 3, 256, 320)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([2.2489, -2.0357, 0.4265], abs=1e-3)


@pytest.mark.parametrize(
    ("budget", "pictures", "size"),
    [
        ("native", 1, (640, 480)),
        ("auto", 1, (1184, 896)),
        ("auto", 2, (1184, 896)),
        ("auto", 4, (864, 640)),
        (65536, 1, (288, 192)),
    ],
)
def test_input_budget(budget: str | int, pictures: int, size: tuple[int, int]) -> None:
    images = [Image.new("RGB", (640, 480))] * pictures
    assert [image.size for image in fit_to_budget(images, budget, (1024, 1024))] == [size] * pictures


def test_a_picture_for_a_preview_is_the_mean_of_squares() -> None:
    """Never smaller than asked for, and the values of the whole picture."""
    picture = torch.full((1, 3, 64, 96), -1.0)
    picture[:, :, ::2] = 1.0  # every other row white
    image = to_image(picture, longer_side=40)
    assert image.size == (48, 32)
    assert set(image.tobytes()) == {128}
    assert to_image(picture, longer_side=97).size == to_image(picture).size == (96, 64)
