"""Axes of grids: what `--vary` accepts, and what it refuses before anything is imported or loaded."""

import pytest

from config.errors import SenseNovaError
from sensenova_cli.inputs.axes import MAX_CELLS, Grid, plan_grid
from sensenova_cli.inputs.prompts import Prompt


def plan(*words: str, prompt: str = "a cat", kind: str = "generate") -> Grid:
    return plan_grid(words, Prompt(prompt), kind)


def values(*words: str) -> tuple[str, ...]:
    return plan(*words).columns.values


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("seed=1..4", ("1", "2", "3", "4")),
        ("seed=7,1..3", ("7", "1", "2", "3")),
        ("cfg_scale=2,4,6", ("2", "4", "6")),
        ("cfg-scale=2..3..0.5", ("2", "2.5", "3")),
        ("--cfg-scale=0..20..10", ("0", "10", "20")),
        ("steps=10..30..10,50", ("10", "20", "30", "50")),
        ("cfg_scale= 2 , 4 ", ("2", "4")),
        ("cfg_scale=4,4", ("4",)),
        ("think=true,false", ("true", "false")),
        ("cfg_interval=0 1,0.2 0.8", ("0 1", "0.2 0.8")),
        ("aspect=16:9,1:1", ("16:9", "1:1")),
        ("negative=,people", ("", "people")),
    ],
)
def test_values(word: str, found: tuple[str, ...]) -> None:
    assert values(word) == found


def test_the_first_axis_gives_the_columns_and_the_second_the_rows() -> None:
    grid = plan("cfg_scale=2,4,6", "seed=1..2")
    assert [[dict(cell.prompt.settings) for cell in row] for row in grid.rows] == [
        [{"cfg_scale": scale, "seed": seed} for scale in (2.0, 4.0, 6.0)] for seed in (1, 2)
    ]
    assert [cell.label for cell in grid.rows[1]][2] == "cfg_scale = 6, seed = 2"


def test_a_name_in_the_prompt_is_an_axis() -> None:
    grid = plan("animal=cat,a dog\\, asleep", "steps=3", prompt="{animal} and a {{bird}}")
    assert [cell.prompt.text for cell in grid.cells] == ["cat and a {bird}", "a dog, asleep and a {bird}"]
    assert grid.title == "{animal} and a {{bird}}" and grid.columns.labels[0] == "animal = cat"
    assert [dict(cell.prompt.settings) for cell in grid.cells] == [{"num_steps": 3}] * 2


@pytest.mark.parametrize(
    ("words", "what", "hint"),
    [
        ((), "nothing varies", "--vary cfg_scale=2,4,6"),
        (("seed",), "--vary seed does not say what varies", "write it like"),
        (("=1",), "--vary =1 does not say what varies", "write it like"),
        (("seed=",), "there are no values", "--vary seed=1,2,3"),
        (("cfg_scale=1,,2",), "a value is empty", "leave out the comma"),
        (("seed=4..1",), "the range 4..1 is empty", "1..4"),
        (("seed=1-4",), "--vary seed=1-4 is not a range", "try --vary seed=1..4"),
        (("seed=1,1",), "the seed 1 is there twice", "once"),
        (("seed=random",), "one seed", "--seed random"),
        (("cfg_scale=3..1",), "the range 3..1 is empty", "1..3"),
        (("cfg_scale=1..3..0",), "the step 0", "above 0"),
        (("cfg_scale=1..x",), "1..x is not a range", "2..4..0.5"),
        (("cfg_scale=1,200",), "--vary cfg_scale=200: must be a number from 0 to 100", "default"),
        (("cfg_norm=none,bad",), "--vary cfg_norm=bad: must be none, global", "default"),
        (("size=65x64",), "multiples of 32", "64x64"),
        (("seed=1..10000",), "a grid of 10,000 pictures is too large", "fewer values"),
        (("seed=1..9223372036854775807",), "is too large", "fewer values"),
        (("steps=1..1000000000",), "a grid of 1,000,000,000 pictures is too large", "fewer values"),
        (("seed=1..100", "steps=1..100"), "a grid of 10,000 pictures is too large", "fewer values"),
        (("model=a,b",), "model cannot vary within a grid", "sensenova grid --files"),
        (("quantization=int8,off",), "quantization cannot vary within a grid", "sensenova grid --files"),
        (("n=1,2",), "each cell is one picture", "--vary seed=1..4"),
        (("preview=off",), "preview does not change a picture", "cfg_scale"),
        (("img_cfg_scale=1,2",), "is for edits", "--image FILE"),
        (("cfg_scal=1,2",), "neither a picture setting nor a name in the prompt", "did you mean cfg_scale?"),
        (("dog=1,2",), "neither a picture setting nor a name in the prompt", "write {dog} in the prompt"),
        (("seed=1", "seed=2"), "--vary seed is given twice", "in one"),
        (("seed=1", "steps=1", "cfg_scale=2"), "two directions, and 3 things vary", "for each cfg_scale"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_messages(words: tuple[str, ...], what: str, hint: str) -> None:
    with pytest.raises(SenseNovaError) as caught:
        plan(*words)
    assert what in caught.value.what and hint in caught.value.hint


def test_a_prompt_with_alternatives_is_not_one_cell() -> None:
    with pytest.raises(SenseNovaError, match="several forms: a red cat, a blue cat") as caught:
        plan("seed=1,2", prompt="a {red|blue} cat")
    assert "--vary color=red,blue" in caught.value.hint


def test_an_unknown_name_in_the_prompt_is_an_error() -> None:
    with pytest.raises(SenseNovaError, match="which no --vary defines") as caught:
        plan("animal=cat,dog", prompt="a {animal} {place}")
    assert "--vary place=" in caught.value.hint


def test_the_largest_grid() -> None:
    assert len(plan(f"seed=1..{MAX_CELLS}").cells) == MAX_CELLS
    assert plan("img_cfg_scale=1,2", kind="edit").columns.is_setting
