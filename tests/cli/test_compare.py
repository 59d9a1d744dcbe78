"""`sensenova compare`: settings and pixels of two pictures, a sheet with their difference, and no PyTorch."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sensenova_cli.comparing.likeness import BAND, difference_image, largest_difference, psnr, ssim
from tests.cli.harness import Program
from tests.cli.test_imports import SHOWN_RARELY, imported


def noisy_pair(rows: int = 6, columns: int = 8) -> tuple[Image.Image, Image.Image]:
    """Return squares of 8 pixels in random colors, and the same with noise."""
    random = np.random.default_rng(7)
    picture = np.kron(random.integers(0, 256, (rows, columns, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    noisy = np.clip(picture.astype(int) + random.integers(-40, 41, picture.shape), 0, 255).astype(np.uint8)
    return Image.fromarray(picture), Image.fromarray(noisy)


def test_ssim_is_that_of_scikit_image() -> None:
    """0.75545: `structural_similarity(…, channel_axis=2, gaussian_weights=True, use_sample_covariance=False)`."""
    one, other = noisy_pair()
    assert ssim(one, other) == pytest.approx(0.7554452004315231)
    assert ssim(one, one) == pytest.approx(1.0)


def test_ssim_of_two_plain_pictures_is_the_formula() -> None:
    """Without variance only the luminance is left: (2 a b + C1) / (a² + b² + C1)."""
    one, other = Image.new("RGB", (16, 16), (100,) * 3), Image.new("RGB", (16, 16), (120,) * 3)
    c1 = (0.01 * 255) ** 2
    assert ssim(one, other) == pytest.approx((2 * 100 * 120 + c1) / (100**2 + 120**2 + c1))


@pytest.mark.parametrize("rows", [BAND // 8 - 1, BAND // 8, BAND // 8 + 1, BAND // 4 + 1])
def test_bands_do_not_change_the_measures(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = noisy_pair(rows, 3)
    in_bands = ssim(one, other), psnr(one, other)
    monkeypatch.setattr("sensenova_cli.comparing.likeness.BAND", 10_000)
    assert (ssim(one, other), psnr(one, other)) == pytest.approx(in_bands)


def test_psnr() -> None:
    one, other = Image.new("RGB", (8, 4), (10, 10, 10)), Image.new("RGB", (8, 4), (10, 10, 13))
    assert psnr(one, other) == pytest.approx(10 * math.log10(255**2 / 3))  # the mean of 0, 0 and 9
    assert psnr(one, one) == math.inf and largest_difference(one, other) == 3


def test_a_picture_of_the_difference_is_bright_enough() -> None:
    one, other = Image.new("RGB", (8, 4), (10, 10, 10)), Image.new("RGB", (8, 4), (10, 9, 13))
    image, factor = difference_image(one, other)
    assert factor == 85 and image.getpixel((0, 0)) == (0, 85, 255)
    assert difference_image(one, one)[0].getextrema() == ((0, 0),) * 3


@pytest.fixture
def pair(program: Program) -> tuple[str, str]:
    """Draw two pictures that differ in two settings."""
    program("generate", "a cat", "--seed", "7", "-o", "a.png")
    program("generate", "a cat", "--seed", "9", "--cfg-scale", "2", "-o", "b.png")
    return "a.png", "b.png"


def test_the_differing_settings_and_the_likeness_are_printed(program: Program, pair: tuple[str, str]) -> None:
    outcome = program("compare", *pair)
    assert outcome.code == 0 and outcome.stderr == ""
    lines = [line.split() for line in outcome.stdout.splitlines()]
    assert lines == [
        ["a.png", "b.png"],
        ["seed", "7", "9"],
        ["cfg_scale", "4", "2"],
        ["PSNR", "46.88", "dB"],  # 10 log10(255² / (2² / 3))
        ["SSIM", "0.9902"],  # of red (2 · 7 · 9 + C1) / (7² + 9² + C1), of green and blue 1
        ["largest", "difference", "2", "of", "255"],
    ]


def test_a_prompt_does_not_control_the_terminal(program: Program, pair: tuple[str, str]) -> None:
    program("generate", "a \x1b[31mcat\x1b]0;title\x07", "-o", "odd.png")
    outcome = program("compare", "a.png", "odd.png", "-o", "both.png")
    assert outcome.code == 0 and "prompt" in outcome.stdout and "\x1b" not in outcome.stdout + outcome.stderr


def test_json(program: Program, pair: tuple[str, str]) -> None:
    result = json.loads(program("compare", *pair, "--json").stdout)
    assert result["settings"] == {"seed": [7, 9], "cfg_scale": [4.0, 2.0]}
    assert result["pictures"] == ["a.png", "b.png"] and result["sizes"] == ["64x64", "64x64"]
    assert result["psnr"] == pytest.approx(46.88, abs=0.01) and not result["same_pixels"]
    Path("c.png").write_bytes(Path("a.png").read_bytes())
    result = json.loads(program("compare", "a.png", "c.png", "--json").stdout)
    assert (result["settings"], result["psnr"], result["ssim"]) == ({}, None, 1.0)
    assert result["same_file"] and result["same_pixels"]


def test_a_sheet_has_both_pictures_and_their_difference(program: Program, pair: tuple[str, str]) -> None:
    outcome = program("compare", *pair, "-o", "both.png")
    assert outcome.stdout.splitlines()[-1] == "both.png"
    with Image.open("both.png") as sheet:
        colors = {color for _, color in sheet.convert("RGB").getcolors(100_000)}  # type: ignore[union-attr]
    assert {(7, 5, 4), (9, 5, 4), (254, 0, 0)} <= colors  # 2 × 127
    before = Path("both.png").read_bytes()
    assert program("compare", *pair, "-o", "both.png").code == 2
    assert program("compare", *reversed(pair), "-o", "both.png", "-f").code == 0
    assert Path("both.png").read_bytes() != before


def test_equal_pictures(program: Program, pair: tuple[str, str]) -> None:
    with Image.open("a.png") as picture:
        picture.save("plain.bmp")
    outcome = program("compare", "a.png", "plain.bmp")
    assert outcome.code == 0 and "pixels" in outcome.stdout and "PSNR" not in outcome.stdout
    assert "plain.bmp has no record of how it was made" in outcome.stderr


def test_what_cannot_be_compared_is_said(program: Program, pair: tuple[str, str]) -> None:
    Image.new("RGB", (96, 64), "red").save("wide.png")
    outcome = program("compare", "a.png", "wide.png", "-o", "both.png")
    assert outcome.code == 0 and Path("both.png").exists()
    assert "the sizes differ (64x64 and 96x64)" in outcome.stderr and "no record" in outcome.stderr
    for name, color in (("s.png", "red"), ("t.png", "blue")):
        Image.new("RGB", (8, 8), color).save(name)
    outcome = program("compare", "s.png", "t.png")
    assert "SSIM needs at least 11 pixels" in outcome.stderr and "PSNR" in outcome.stdout
    assert program("compare", "s.png", "t.png", "-q").stderr == ""
    damaged = PngInfo()
    damaged.add_itxt("sensenova", "{")
    Image.new("RGB", (64, 64)).save("odd.png", pnginfo=damaged)
    assert "the record in odd.png cannot be read" in program("compare", "a.png", "odd.png").stderr


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("a.png",), "missing argument"),
        (("a.png", "a.png"), "a.png and a.png are the same file"),
        (("a.png", "./a.png"), "are the same file"),
        (("a.png", "missing.png"), "there is no file missing.png"),
        (("a.png", "text.txt"), "not a picture in a supported format"),
        (("a.png", "."), "."),
        (("-", "-"), "only once"),
        (("a.png", "b.png", "-o", "-"), "would mix the sheet"),
        (("a.png", "b.png", "-o", "both.txt"), "does not end in .png"),
        (("a.png", "b.png", "-o", "b.png"), "b.png exists already"),
        (("a.png", "b.png", "-o", "{slug}.png"), "a sheet is one file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_messages(program: Program, pair: tuple[str, str], words: tuple[str, ...], what: str) -> None:
    Path("text.txt").write_text("not a picture")
    outcome = program("compare", *words)
    assert (outcome.code, outcome.stdout) == (2, "") and what in outcome.stderr


def test_a_picture_from_standard_input(program: Program, pair: tuple[str, str]) -> None:
    outcome = program("compare", "a.png", "-", stdin=Path("b.png").read_bytes())
    assert outcome.code == 0 and "standard input" in outcome.stdout


def test_no_pytorch_is_imported(program: Program, pair: tuple[str, str], home: Path) -> None:
    modules = imported(home, "compare", *pair, "-o", "both.png")
    assert sorted(modules & {"torch", "tokenizers", "huggingface_hub", *SHOWN_RARELY}) == []
    modules = imported(home, "grid", "--files", *pair, "-o", "grid.png")
    assert sorted(modules & {"torch", "tokenizers", "huggingface_hub", *SHOWN_RARELY}) == []
    modules = imported(home, "grid", "a cat", "--vary", "cfg_scale=1,200", code=2)
    assert sorted(modules & {"torch", "numpy", "PIL.Image", *SHOWN_RARELY}) == []
