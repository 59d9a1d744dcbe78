"""Sheets: layout, text that fits, fonts, and `edit --before-after`."""

import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from sensenova_cli.render.fonts import choose_font, missing_characters
from sensenova_cli.render.sheet import MAX_SIDE, MIN_TILE, Sheet, draw_sheet, tile_side, wrap_text, wrapped
from sensenova_cli.turns.sheet_files import SheetFile
from tests.cli.harness import Program

RED, BLUE = (255, 0, 0), (0, 0, 255)


def box_of(image: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the pixels of a color."""
    mask = Image.new("1", image.size)
    mask.putdata([pixel == color for pixel in image.get_flattened_data()])
    box = mask.getbbox()
    assert box is not None
    return box


def has_ink(image: Image.Image, box: tuple[int, int, int, int]) -> bool:
    """Return whether a part of a sheet has text."""
    low, high = image.crop(box).convert("L").getextrema()
    return int(low) < 100 < int(high)  # type: ignore[arg-type]


def test_pictures_keep_their_pixels_and_labels_are_beside_them() -> None:
    sheet = draw_sheet(
        Sheet([[Image.new("RGB", (256, 200), RED), Image.new("RGB", (256, 200), BLUE)]], "Title", ["one", "two"], ["a"])
    )
    red, blue = box_of(sheet, RED), box_of(sheet, BLUE)
    assert (red[2] - red[0], red[3] - red[1]) == (256, 200) and red[1] == blue[1] and red[2] < blue[0]
    assert has_ink(sheet, (red[0], red[1] - 24, red[2], red[1])) and has_ink(sheet, (blue[0], blue[1] - 24, *blue[2:]))
    assert has_ink(sheet, (0, red[1], red[0], red[3])) and has_ink(sheet, (0, 0, sheet.width, red[1] - 30))


def test_tiny_pictures_are_enlarged_by_a_whole_number() -> None:
    sheet = draw_sheet(Sheet([[Image.new("RGB", (32, 32), RED)]], "", ["a label that needs some room"]))
    red = box_of(sheet, RED)
    assert (red[2] - red[0]) % 32 == 0 and MIN_TILE * 3 // 4 <= red[2] - red[0] <= MIN_TILE


def test_large_pictures_are_scaled_down() -> None:
    red = box_of(draw_sheet(Sheet([[Image.new("RGB", (2048, 1024), RED)]])), RED)
    assert (red[2] - red[0], red[3] - red[1]) == (512, 256)


def test_pictures_of_different_shapes_are_whole_and_in_the_middle() -> None:
    sheet = draw_sheet(Sheet([[Image.new("RGB", (300, 100), RED)], [Image.new("RGB", (100, 300), BLUE)]]))
    red, blue = box_of(sheet, RED), box_of(sheet, BLUE)
    assert (red[2] - red[0], red[3] - red[1], blue[2] - blue[0], blue[3] - blue[1]) == (300, 100, 100, 300)
    assert red[0] + red[2] == blue[0] + blue[2]


def test_a_thousand_pictures_do_not_make_a_sheet_too_large_to_open() -> None:
    assert 1000 * tile_side(1000, 1) <= MAX_SIDE and tile_side(40, 25) >= 250
    assert len(wrapped([None] * 1000, ["x"] * 1000).rows) == 32


def test_a_series_of_up_to_six_is_one_row() -> None:
    assert [len(wrapped([None] * count, ["x"] * count).rows) for count in (1, 6, 7, 12)] == [1, 1, 3, 3]


def test_a_sheet_that_is_too_wide_for_webp_is_a_png(home: Path) -> None:
    notes: list[str] = []
    file = SheetFile.prepare("wide.webp", notes.append, force=False)
    written, image = file.write(Sheet([[Image.new("RGB", (32, 32), RED)] * 105]))
    assert (written, Path("wide.webp").exists()) == (Path("wide.png"), False) and image.width > 16_383
    assert len(notes) == 1 and "so it was written to wide.png" in notes[0]


@pytest.mark.parametrize(
    "text", ["word " * 500, "w" * 5000, "一只可爱的猫" * 500, "line\n" * 50, "a\udce9\x1b[31m\x00b", ""]
)
def test_text_fits(text: str) -> None:
    font = choose_font(text, 16)
    lines = wrap_text(text, font, 160, 4)
    assert len(lines) <= 4 and all(font.getlength(line) <= 160 for line in lines)
    assert not text or lines[-1].endswith("…") or len(text) < 20
    draw_sheet(Sheet([[Image.new("RGB", (64, 64))]], text, [text], [text], [[text]]))


def test_fonts_of_the_system_have_what_the_own_font_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_characters("A cute cat, 3 × 4!") in ("", "×")
    monkeypatch.setattr("sensenova_cli.render.fonts.SYSTEM_FONTS", ("no-such-font.ttf",))
    assert missing_characters("café 猫 é") == "é猫"
    image = Image.new("RGB", (100, 40), "white")
    ImageDraw.Draw(image).text((0, 0), "猫", fill="black", font=choose_font("猫", 20))
    assert image.getcolors(10_000) != [(4000, (255, 255, 255))]  # a box, not nothing


# edit --before-after


@pytest.fixture
def red(home: Path) -> Path:
    Image.new("RGB", (128, 128), RED).save("red.png")
    return Path("red.png")


def test_before_and_after(program: Program, red: Path) -> None:
    outcome = program("edit", "red.png", "make it blue", "-o", "blue.png", "--before-after", "pair.png")
    assert (outcome.code, outcome.stdout) == (0, "blue.png\npair.png\n"), outcome.stderr
    with Image.open("pair.png") as opened, Image.open("blue.png") as result:
        pair, after = opened.convert("RGB"), result.convert("RGB").getpixel((0, 0))
    assert box_of(pair, RED)[2] < box_of(pair, after)[0]  # type: ignore[arg-type]
    assert has_ink(pair, (0, 0, pair.width, box_of(pair, RED)[1]))


def test_several_results_and_prompts_are_on_one_sheet(program: Program, red: Path) -> None:
    outcome = program(
        *("edit", "red.png", "make it {blue|green}", "-n", "2", "-o", "out/", "--before-after", "all.png", "--json")
    )
    assert outcome.code == 0, outcome.stderr
    lines = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert lines[-1] == {"task": "before-after", "path": "all.png", "pictures": [line["path"] for line in lines[:-1]]}
    with Image.open("all.png") as sheet:
        colors = {color for count, color in sheet.convert("RGB").getcolors(100_000) if count >= 128 * 128}  # type: ignore[union-attr]
    assert len(colors - {(255, 255, 255)}) == 5  # the input, and two pictures of each prompt


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("red.png", "x", "--seed", "1..101", "-o", "a.png", "--before-after", "b.png"), "a sheet of 101 edits"),
        (("red.png", "x", "-o", "a.png", "--before-after", "a.png"), "both name a.png"),
        (("red.png", "x", "-o", "a.png", "--before-after", "red.png"), "red.png exists already"),
        (("red.png", "x", "-o", "a.png", "--before-after", "-"), "a sheet cannot go to stdout"),
        (("red.png", "x", "-o", "a.png", "--before-after", "pair.txt"), "does not end in .png"),
    ],
)
def test_messages_of_before_after(program: Program, red: Path, words: tuple[str, ...], what: str) -> None:
    outcome = program("edit", *words)
    assert (outcome.code, outcome.stdout) == (2, "") and what in outcome.stderr
    assert program.engines == [] and not Path("a.png").exists()
