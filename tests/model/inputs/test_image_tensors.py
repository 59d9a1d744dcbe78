"""Sizes and pixels of input images and previews."""

import pytest
import torch
from PIL import Image

from config.recommended import PixelRange, Recommended
from model.errors import PictureError
from model.inputs.image_tensors import fit_size, fit_to_budget, prepare_image, to_preview

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
    pixels = prepare_image(Image.new("RGB", (320, 256), (255, 0, 128)), ANSWER)
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


def test_a_preview_averages_the_whole_picture() -> None:
    picture = torch.full((1, 3, 64, 96), -1.0)
    picture[:, :, ::2] = 1.0  # every other row white
    image = to_preview(picture, 40)
    assert image.size == (40, 27)
    assert set(image.tobytes()) == {128}


@pytest.mark.parametrize(
    ("size", "longer_side", "made"),
    [
        ((96, 64), 0, (96, 64)),
        ((96, 64), 96, (96, 64)),
        ((96, 64), 97, (96, 64)),  # previews are never enlarged
        ((96, 64), 95, (95, 64)),
        ((96, 64), 48, (48, 32)),
        ((64, 96), 30, (20, 30)),
        ((2048, 1184), 80, (80, 47)),
        ((32, 6400), 80, (1, 80)),
        ((6400, 32), 250, (250, 2)),
        ((96, 64), 1, (1, 1)),
    ],
)
def test_a_preview_has_the_requested_size(size: tuple[int, int], longer_side: int, made: tuple[int, int]) -> None:
    assert to_preview(torch.zeros(1, 3, size[1], size[0]), longer_side).size == made


def test_a_preview_keeps_the_layout_of_the_picture() -> None:
    """This includes the last squares, which extend beyond the edge."""
    picture = torch.full((1, 3, 64, 100), -1.0)
    picture[..., 50:] = 1.0  # the right half white
    row = to_preview(picture, 3).convert("L").crop((0, 0, 3, 1)).tobytes()
    assert list(row) == [0, 124, 255]  # columns 0 to 32, 33 to 65 (16 of them white), 66 to 98
