import math

import pytest

from config.errors import SettingsError
from config.sizes import (
    INTERLEAVE_SIZES,
    MAX_ASPECT,
    MAX_PIXELS,
    TOKEN_PIXELS,
    TRAINED_SIZES,
    check_size,
    nearest_trained,
    nearest_valid,
    parse_aspect,
    parse_size,
    resolve_interleave_size,
    resolve_size,
    size_for_aspect,
)


@pytest.mark.parametrize("text", ["2048x1536", "2048X1536", "2048×1536", " 2048 * 1536 ", "+2048x1536"])
def test_size_in_several_forms(text: str) -> None:
    assert parse_size(text) == (2048, 1536)


@pytest.mark.parametrize("text", ["auto", "16:9", "2048", "2048x", "axb", "", "2048x1536x3", "9" * 5000 + "x1"])
def test_text_of_another_form_is_not_a_size(text: str) -> None:
    assert parse_size(text) is None


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        ("1000x1000", "multiples of 32", "try 992x992 or 1024x1024"),
        ("16x16", "multiples of 32", "try 32x32"),
        ("0x32", "must be positive", "try 2048x2048"),
        ("-64x64", "must be positive", "try 2048x2048"),
        ("4096x4128", "the limit is 16,777,216", "try 2048x2048"),
        ("99999999999x1", "the limit is", "try 3456x1152"),
        (f"{10**17}x{10**17}", "the limit is", "try 2048x2048"),
        ("8192x32", "too long", "try 6400x32"),
        ("32x6432", "too long", "try 32x6400"),
        ("1x16777215", "multiples of 32", "try 32x6400"),
    ],
)
def test_impossible_size_names_one_that_works(text: str, reason: str, hint: str) -> None:
    with pytest.raises(SettingsError) as raised:
        parse_size(text)
    assert reason in raised.value.what
    assert raised.value.hint == hint


@pytest.mark.parametrize("size", [(1, 1), (31, 5000), (4097, 4095), (6401, 33), (2047, 2049), (1, MAX_PIXELS)])
def test_suggested_sizes_are_valid(size: tuple[int, int]) -> None:
    suggested = nearest_valid(size)
    assert 1 <= len(suggested) <= 2
    for near in suggested:
        check_size(near)


@pytest.mark.parametrize(("text", "ratio"), [("16:9", 16 / 9), ("1:1", 1.0), ("2.35:1", 2.35), (" 2 : 3 ", 2 / 3)])
def test_aspect_is_width_over_height(text: str, ratio: float) -> None:
    assert parse_aspect(text) == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0:1", "must be positive"),
        ("1:0", "must be positive"),
        ("201:1", "factor of 200 at most\nthe longest is 200:1"),
        ("1:201", "factor of 200 at most\nthe longest is 1:200"),
        ("1" * 400 + ":1", "too long"),
        ("1" * 400 + ":" + "1" * 400, "too long"),
    ],
)
def test_unusable_aspect_is_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_aspect(text)


@pytest.mark.parametrize("text", ["auto", "2048x2048", "-1:2", "16/9", "16:9:1"])
def test_text_of_another_form_is_not_an_aspect(text: str) -> None:
    assert parse_aspect(text) is None


@pytest.mark.parametrize(
    ("aspect", "size"),
    [
        ("1:1", (2048, 2048)),
        ("16:9", (2720, 1536)),
        ("9:16", (1536, 2720)),
        ("3:2", (2496, 1664)),
        ("2:3", (1664, 2496)),
        ("4:3", (2368, 1760)),
        ("3:4", (1760, 2368)),
        ("2:1", (2880, 1440)),
        ("1:3", (1152, 3456)),
    ],
)
def test_aspect_gives_its_trained_size(aspect: str, size: tuple[int, int]) -> None:
    assert resolve_size(aspect, TRAINED_SIZES) == size


def test_aspect_without_trained_size_keeps_ratio_and_pixels() -> None:
    width, height = resolve_size("21:9", TRAINED_SIZES)
    assert (width, height) not in TRAINED_SIZES
    assert width / height == pytest.approx(21 / 9, rel=0.03)
    assert width * height == pytest.approx(2048 * 2048, rel=0.05)
    check_size((width, height))


def test_auto_is_the_default_size_or_the_first_pictures_aspect() -> None:
    assert resolve_size("auto", TRAINED_SIZES) == (2048, 2048)
    assert resolve_size("auto", [(64, 96), (96, 64)]) == (64, 96)
    assert resolve_size("auto", TRAINED_SIZES, first_image=(400, 300)) == (2368, 1760)


def test_explicit_size_wins_over_the_picture() -> None:
    assert resolve_size("512x256", TRAINED_SIZES, first_image=(400, 300)) == (512, 256)


@pytest.mark.parametrize("pixels", [64 * 64, 674 * 674, 2048 * 2048])
@pytest.mark.parametrize("aspect", [1 / 200, 1 / 3, 1.0, 7.3, 199.9])
def test_size_for_aspect_is_always_valid(aspect: float, pixels: int) -> None:
    check_size(size_for_aspect(aspect, pixels))


def test_unknown_size_setting_is_refused() -> None:
    with pytest.raises(SettingsError, match="not understood"):
        resolve_size("huge", TRAINED_SIZES)


def test_nearest_trained_size_goes_by_aspect_then_area() -> None:
    assert nearest_trained((1280, 720), TRAINED_SIZES) == (2720, 1536)
    assert nearest_trained((512, 512), [(2048, 2048), (1024, 1024)]) == (1024, 1024)
    assert nearest_trained((10**17, 10**17), TRAINED_SIZES) == (2048, 2048)


def test_trained_sizes_are_valid_and_include_their_transposes() -> None:
    for width, height in TRAINED_SIZES:
        check_size((width, height))
        assert width % TOKEN_PIXELS == 0
        assert (height, width) in TRAINED_SIZES
        assert abs(math.log(width / height)) < math.log(MAX_ASPECT)


@pytest.mark.parametrize(
    ("first", "size"),
    [
        ((640, 480), (640, 480)),
        ((301, 517), (416, 672)),
        ((900, 200), (1088, 256)),
        ((1000, 1500), (992, 1504)),
        ((1920, 1080), (1920, 1088)),
        ((2048, 2048), (1440, 1440)),
        ((4000, 3000), (1664, 1248)),
        ((256, 256), (512, 512)),
    ],
)
def test_an_interleaved_answer_follows_its_first_picture(first: tuple[int, int], size: tuple[int, int]) -> None:
    assert resolve_interleave_size("auto", INTERLEAVE_SIZES, first) == size
    assert resolve_interleave_size("1536x1536", INTERLEAVE_SIZES, first) == (1536, 1536)


def test_an_interleaved_answer_without_pictures_has_sizes_of_its_own() -> None:
    assert resolve_interleave_size("auto", INTERLEAVE_SIZES) == (2048, 1152)
    assert resolve_interleave_size("9:16", INTERLEAVE_SIZES) == (1152, 2048)
    assert resolve_interleave_size("3:2", INTERLEAVE_SIZES) == (1888, 1248)
