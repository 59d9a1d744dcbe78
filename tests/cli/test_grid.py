"""`sensenova grid`: cells with their records, a labelled sheet, and messages before the model is loaded."""

import json
import signal
from pathlib import Path

import pytest
from PIL import Image

from model import NumericsError
from sensenova_cli.comparing.arrangement import arrange, read_pictures
from sensenova_cli.outputs.picture_files import read_record
from sensenova_cli.render.sheet import BACKGROUND
from tests.cli.desktop import Desktop
from tests.cli.fake_engine import FakeEngine
from tests.cli.harness import Program
from tests.cli.test_desktop import opened

GRID = ("grid", "a cat", "--vary", "cfg_scale=2,4,6", "--vary", "seed=1..4", "-o", "grid.png")


def colors_of(sheet: Path, columns: int) -> list[list[tuple[int, int, int]]]:
    """Return the colors of a sheet's pictures, which the fake engine paints in one color each, row by row."""
    with Image.open(sheet) as opened:
        image = opened.convert("RGB")
    white = Image.new("RGB", (1, 1), BACKGROUND).getpixel((0, 0))
    rows: list[list[tuple[int, int, int]]] = []
    for y in range(image.height):
        line = [image.getpixel((x, y)) for x in range(image.width)]
        runs = [color for color, before in zip(line[1:], line, strict=False) if color != before]
        wide = [color for color in dict.fromkeys(line) if color != white and line.count(color) >= 64]
        found = [color for color in runs if color in wide]
        if len(found) == columns and (not rows or rows[-1] != found):
            rows.append(found)  # type: ignore[arg-type]
    return rows


def test_a_grid_is_one_run_with_a_picture_for_each_cell(program: Program, home: Path) -> None:
    outcome = program(*GRID)
    assert outcome.code == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert lines[0] == "grid-01-cfg-scale-2-seed-1.png" and lines[-2:] == ["grid-12-cfg-scale-6-seed-4.png", "grid.png"]
    assert sorted(path.name for path in home.iterdir()) == sorted(lines)
    assert len(program.engines) == 1 and len(program.engines[0].requests) == 12
    records = [read_record(Path(line)) for line in lines[:-1]]
    assert [(record.settings.cfg_scale, record.settings.seed) for record in records if record is not None] == [
        (scale, seed) for seed in (1, 2, 3, 4) for scale in (2.0, 4.0, 6.0)
    ]
    assert "12 pictures" in outcome.stderr


def test_the_sheet_has_the_pictures_in_their_places(program: Program) -> None:
    assert program("grid", "a cat", "--vary", "steps=1,2,3", "--vary", "seed=10,20", "-o", "grid.png").code == 0
    assert colors_of(Path("grid.png"), 3) == [[(seed, 5, steps) for steps in (1, 2, 3)] for seed in (10, 20)]


def test_one_axis_is_a_row(program: Program) -> None:
    assert program("grid", "a cat", "--vary", "seed=10..12", "-o", "grid.png").code == 0
    assert colors_of(Path("grid.png"), 3) == [[(seed, 5, 4) for seed in (10, 11, 12)]]


def test_a_sheet_without_a_name_is_named_by_its_prompt(program: Program) -> None:
    outcome = program("grid", "a {animal}", "--vary", "animal=cat,dog", "-q")
    assert outcome.stdout.split() == [
        "a-animal-grid-01-animal-cat.png", "a-animal-grid-02-animal-dog.png", "a-animal-grid.png",
    ]  # fmt: skip
    assert [request.prompt for request in program.engines[0].requests] == ["a cat", "a dog"]
    Path("folder").mkdir()
    assert program("grid", "a cat", "--vary", "seed=1", "-o", "folder", "-q").stdout.endswith("folder/a-cat-grid.png\n")


def test_a_folder_of_the_settings_is_used_but_not_a_name_in_it(program: Program) -> None:
    Path("sensenova.toml").write_text('output = "out/{slug}-{seed}.png"\nnum_images = 4\n')
    outcome = program("grid", "a cat", "--vary", "seed=1,2", "-q")
    assert outcome.stdout.split()[-1] == "out/a-cat-grid.png"
    assert len(outcome.stdout.split()) == 3


def test_a_cell_can_be_made_again_and_a_grid_can_start_from_a_picture(program: Program) -> None:
    program(*GRID)
    outcome = program("generate", "--from", "grid-05-cfg-scale-4-seed-2.png", "--trust-record", "-o", "again.png")
    assert outcome.code == 0, outcome.stderr
    assert Path("again.png").read_bytes() == Path("grid-05-cfg-scale-4-seed-2.png").read_bytes()
    outcome = program("grid", "--from", "again.png", "--trust-record", "--vary", "steps=1,2", "-o", "other.png")
    assert outcome.code == 0, outcome.stderr
    settings = [(request.settings.seed, request.settings.cfg_scale) for request in program.engines[-1].requests]
    assert settings == [(2, 4.0)] * 2


def test_edits_vary_too(program: Program) -> None:
    Image.new("RGB", (64, 64), "red").save("red.png")
    outcome = program(
        *("grid", "make it {style}", "--image", "red.png", "--vary", "style=gold,ice"),
        *("--vary", "img_cfg_scale=1,2", "-o", "grid.png"),
    )
    assert outcome.code == 0, outcome.stderr
    requests = program.engines[0].requests
    assert [(request.prompt, request.settings.img_cfg_scale) for request in requests] == [  # type: ignore[union-attr]
        ("make it gold", 1.0), ("make it ice", 1.0), ("make it gold", 2.0), ("make it ice", 2.0),
    ]  # fmt: skip
    record = read_record(Path("grid-01-style-gold-img-cfg-scale-1.png"))
    assert record is not None and record.task == "edit" and len(record.inputs) == 1


def test_a_random_seed_is_the_same_in_all_cells(program: Program) -> None:
    outcome = program("grid", "a cat", "--vary", "steps=1,2", "--seed", "random", "-o", "grid.png")
    assert outcome.code == 0, outcome.stderr
    first, second = (request.settings.seed for request in program.engines[0].requests)
    assert first == second and f"random seed: {first}" in outcome.stderr


def test_json_has_a_line_for_each_picture_and_one_for_the_sheet(program: Program) -> None:
    lines = [json.loads(line) for line in program(*GRID, "--json").stdout.splitlines()]
    assert [line["task"] for line in lines] == ["generate"] * 12 + ["grid"]
    sheet = lines[-1]
    assert sheet["path"] == "grid.png" and sheet["columns"] == {"name": "cfg_scale", "values": ["2", "4", "6"]}
    assert [path for row in sheet["pictures"] for path in row] == [line["path"] for line in lines[:-1]]
    events = [json.loads(line) for line in program(*GRID, "--events", "-f").stdout.splitlines()]
    assert events[-1]["event"] == "sheet" and events[-1]["path"] == "grid.png"


def test_a_dry_run_writes_nothing(program: Program, home: Path) -> None:
    outcome = program(*GRID, "--dry-run")
    assert outcome.code == 0 and "grid-12-cfg-scale-6-seed-4.png" in outcome.stdout
    assert ["sheet", "grid.png"] in [line.split() for line in outcome.stdout.splitlines()]
    assert json.loads(program(*GRID, "--dry-run", "--json").stdout)["sheet"] == "grid.png"
    assert list(home.iterdir()) == [] and program.engines == []


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ((), "there is no prompt"),
        (("a cat",), "nothing varies"),
        (("a cat", "--vary", "seed=1..100", "--vary", "steps=1..100"), "a grid of 10,000 pictures is too large"),
        (("a cat", "--vary", "seed=9..1"), "the range 9..1 is empty"),
        (("a cat", "--vary", "cfg_scal=1,2"), "did you mean cfg_scale"),
        (("a cat", "--vary", "quantization=int8,off"), "sensenova grid --files"),
        (("a cat", "--vary", "cfg_scale=1,1000"), "must be a number from 0 to 100"),
        (("a cat", "--seed", "1..4", "--vary", "steps=1,2"), "to vary it: --vary seed=1..4"),
        (("a cat", "--vary", "seed=1,2", "-o", "-"), "a sheet cannot go to stdout"),
        (("a cat", "--vary", "seed=1,2", "-o", "{seed}.png"), "a sheet is one file"),
        (("a cat", "--vary", "seed=1,2", "-o", "grid.txt"), "does not end in .png"),
        (("a cat", "--vary", "seed=1,2", "--files", "a.png"), "give one of them"),
        (("--files", "missing.png"), "there is no file missing.png"),
        (("--files",), "--files needs a file"),
        (("--files", "a.png", "--seed", "3"), "--files uses existing pictures, and --seed is for new ones"),
        (("a cat", "--vary", "size=64x64,99x64"), "multiples of 32"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_messages_come_before_the_model(program: Program, home: Path, words: tuple[str, ...], what: str) -> None:
    outcome = program("grid", *words)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert what in outcome.stderr
    assert program.engines == [] and list(home.iterdir()) == []


def test_an_existing_sheet_or_picture_is_not_replaced(program: Program) -> None:
    program(*GRID)
    before = Path("grid.png").read_bytes()
    outcome = program(*GRID)
    assert outcome.code == 2 and "exists already" in outcome.stderr and "-f" in outcome.stderr
    Path("grid.png").unlink()
    outcome = program(*GRID)
    assert outcome.code == 2 and "grid-01-cfg-scale-2-seed-1.png exists already" in outcome.stderr
    assert "--skip-existing" in outcome.stderr and len(program.engines) == 1
    assert program(*GRID, "-f").code == 0 and Path("grid.png").read_bytes() == before


def test_an_interrupted_grid_keeps_its_pictures_and_goes_on(program: Program, home: Path) -> None:
    def prepare(engine: FakeEngine) -> None:
        steps: list[int] = []

        def on_step(number: int) -> None:
            steps.append(number)
            if len(steps) == 18:  # in the fifth picture
                signal.raise_signal(signal.SIGINT)

        engine.on_step = on_step

    program.prepare = prepare
    outcome = program(*GRID)
    assert outcome.code == 130 and len(outcome.stdout.split()) == 4
    assert len(list(home.iterdir())) == 4 and not Path("grid.png").exists()
    assert "4 of 12 pictures are done" in outcome.stderr and "--skip-existing" in outcome.stderr
    program.prepare = lambda engine: None
    outcome = program(*GRID, "--skip-existing")
    assert outcome.code == 0, outcome.stderr
    assert len(program.engines[-1].requests) == 8 and len(list(home.iterdir())) == 13
    done = Path("grid.png").read_bytes()
    Path("grid.png").unlink()
    assert program(*GRID, "--skip-existing").stdout == "grid.png\n" and len(program.engines) == 2
    assert Path("grid.png").read_bytes() == done


def test_a_grid_goes_on_after_errors(program: Program, home: Path) -> None:
    """The sheet waits for the missing cells."""

    def fail_for_seed_2(engine: FakeEngine) -> None:
        def check(number: int) -> None:
            if engine.requests[-1].settings.seed == 2:
                raise NumericsError("the picture has NaN in it", "")

        engine.on_step = check

    program.prepare = fail_for_seed_2
    outcome = program(*GRID, "--max-errors", "4")
    assert outcome.code == 1 and "3 items failed; 9 of 12 pictures are done" in outcome.stderr
    assert "--skip-existing" in outcome.stderr
    assert len(list(home.iterdir())) == 9 and not Path("grid.png").exists()
    program.prepare = lambda engine: None
    assert program(*GRID, "--skip-existing").code == 0 and Path("grid.png").exists()


def test_existing_pictures_give_the_same_sheet(program: Program) -> None:
    names = program(*GRID).stdout.split()[:-1]
    outcome = program("grid", "--files", *reversed(names), "-o", "again.png")
    assert (outcome.code, outcome.stdout) == (0, "again.png\n"), outcome.stderr
    assert Path("again.png").read_bytes() == Path("grid.png").read_bytes()
    assert len(program.engines) == 1


def test_pictures_of_one_axis_are_in_its_order(program: Program) -> None:
    names = program("grid", "a cat", "--vary", "seed=10..12", "-o", "grid.png").stdout.split()[:-1]
    assert program("grid", "--files", names[1], names[2], names[0], "-o", "again.png").code == 0
    assert Path("again.png").read_bytes() == Path("grid.png").read_bytes()


def test_pictures_without_a_record_are_labelled_by_their_names(program: Program) -> None:
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (64, 64), "red").save(name)
    outcome = program("grid", "--files", "a.png", "b.jpg")
    assert (outcome.code, outcome.stdout) == (0, "grid.png\n")
    assert "2 pictures have no record" in outcome.stderr
    assert "2 pictures have no record" not in program("grid", "--files", "a.png", "b.jpg", "-f", "-q").stderr


def test_pictures_with_a_record_keep_their_labels_beside_those_without(program: Program) -> None:
    for steps in ("1", "2"):
        assert program("generate", "a cat", "--steps", steps, "-o", f"{steps}.png").code == 0
    Image.new("RGB", (64, 64), "red").save("x.png")
    pictures, notes = read_pictures(["1.png", "x.png", "2.png"])
    assert notes == ["x.png has no record of how it was made, so its label is its name"]
    assert arrange(pictures).captions == [["1.png\nnum_steps = 1", "x.png", "2.png\nnum_steps = 2"]]
    assert arrange(pictures[:2]).captions == [["1.png", "x.png"]]


def test_the_sheet_is_opened_and_copied(
    program: Program, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desktop = Desktop.start(tmp_path, monkeypatch)
    assert program(*GRID, "--open").code == 0
    assert opened(desktop) == [str(home / "grid.png")]
    assert program("grid", "--files", "grid-01-cfg-scale-2-seed-1.png", "-o", "one.png", "--copy").code == 0
    assert desktop.copied() == Path("one.png").read_bytes()


def test_a_text_that_no_font_has_is_said(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensenova_cli.render.fonts.SYSTEM_FONTS", ())
    outcome = program("grid", "一只{animal}", "--vary", "animal=猫", "-o", "grid.png")
    assert outcome.code == 0 and "no font here has 一只猫" in outcome.stderr
