"""Axes of a grid: `--vary NAME=VALUES` names a picture setting or a part of the prompt, and the values that it takes.

--vary cfg_scale=2,4,6          a list
--vary seed=1..4                a range of whole numbers
--vary cfg_scale=2..4..0.5      a range with a step
--vary "animal=cat,dog"         with {animal} in the prompt
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from config.declarations import DECLARATIONS, IMAGE, LOAD
from config.errors import SettingsError
from config.task_defaults import EDIT_ONLY
from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.expansion import NAME, expand_prompts, parse_seeds, split_values, uses_variable
from sensenova_cli.inputs.prompts import Prompt

MAX_CELLS = 1000
"""Most pictures of a grid: on a sheet with more, they would be too small to see."""
MAX_AXES = 2
OTHER_NAMES = {"steps": "num_steps", "aspect": "size", "n": "num_images"}
"""Options that are not named like their setting → the setting."""

_NUMBER = r"\s*([+-]?\d*\.?\d+)\s*"
_RANGE = re.compile(rf"{_NUMBER}\.\.{_NUMBER}(?:\.\.{_NUMBER})?", re.ASCII)


@dataclass(frozen=True)
class Axis:
    """One direction of a grid.

    Attributes:
        name: a setting, or a name in the prompt's braces.
        values: the values of the setting as the user wrote them, or texts for the prompt.
        is_setting: whether the name is that of a setting.
    """

    name: str
    values: tuple[str, ...]
    is_setting: bool

    @property
    def labels(self) -> list[str]:
        """A label of each value for people."""
        return [f"{self.name} = {value or 'none'}" for value in self.values]


@dataclass(frozen=True)
class Cell:
    """One picture of a grid.

    Attributes:
        prompt: the prompt, with the settings of this cell.
        label: the values of both axes.
    """

    prompt: Prompt
    label: str


@dataclass(frozen=True)
class Grid:
    """A grid to draw: the first axis gives its columns, and the second one its rows.

    Attributes:
        title: the prompt, with its names in braces.
        columns, down: the axes; `down` is None if only one thing varies.
        rows: the cells, row by row.
    """

    title: str
    columns: Axis
    down: Axis | None
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def cells(self) -> list[Cell]:
        """All cells, row by row."""
        return [cell for row in self.rows for cell in row]


def plan_grid(words: Sequence[str], prompt: Prompt, kind: str) -> Grid:
    """Return the cells of a grid.

    Args:
        words: the values of all `--vary`.
        kind: `generate`, or `edit` if there are input pictures.

    Raises:
        UsageError: an axis has no values, is unknown, cannot vary or is there twice, there are more than two axes, or
            there are too many cells.
        SettingsError: a value is not valid.
    """
    if not words:
        raise UsageError("nothing varies in this grid", "for example: --vary cfg_scale=2,4,6 --vary seed=1..4")
    axes = [parse_axis(word, prompt.text, kind) for word in words]
    if len(axes) > MAX_AXES:
        raise UsageError(
            f"a sheet has two directions, and {len(axes)} things vary: {', '.join(axis.name for axis in axes)}",
            f"make one grid for each {axes[-1].name}",
        )
    if len({axis.name for axis in axes}) < len(axes):
        raise UsageError(
            f"--vary {axes[0].name} is given twice", f"write all values in one: --vary {axes[0].name}=1,2,3"
        )
    columns, down = axes[0], axes[1] if len(axes) > 1 else None
    _require_few(len(columns.values) * (len(down.values) if down else 1))
    settings = [_checked(axis) if axis.is_setting else axis.values for axis in axes]
    rows = []
    for row in range(len(down.values) if down else 1):
        chosen = [(column, row) if down else (column,) for column in range(len(columns.values))]
        rows.append(tuple(_cell(prompt, axes, settings, indices) for indices in chosen))
    return Grid(prompt.text, columns, down, tuple(rows))


def parse_axis(word: str, prompt: str, kind: str) -> Axis:
    """Read one `--vary NAME=VALUES`; errors as for `plan_grid`."""
    typed, equals, text = word.partition("=")
    name = typed.strip().removeprefix("--").replace("-", "_")
    name = OTHER_NAMES.get(name, name)
    is_setting = name in DECLARATIONS
    if not equals or not NAME.fullmatch(name):
        raise UsageError(f"--vary {word} does not say what varies", "write it like --vary cfg_scale=2,4,6")
    if is_setting:
        _require_variable(name, kind)
    else:
        name = typed.strip()
        _require_in_prompt(name, prompt)
    if not text.strip():
        raise UsageError(f"--vary {word}: there are no values", f"write it like --vary {name}=1,2,3")
    if name == "seed":
        seeds = parse_seeds(text, "--vary seed=")
        if seeds.is_random:
            raise UsageError("--vary seed=random would be one seed", "use --seed random, or give numbers")
        _require_few(seeds.count)
        return Axis(name, tuple(str(seed) for each in seeds.ranges for seed in each), True)
    values = split_values(text)
    may_be_empty = is_setting and DECLARATIONS[name].default == ""  # such as `negative`
    if not all(values) and not may_be_empty:
        raise UsageError(f"--vary {word}: a value is empty", "leave out the comma, or write the value")
    if is_setting and DECLARATIONS[name].kind in ("int", "float"):
        values = tuple(number for value in values for number in _numbers(value, word))
    return Axis(name, tuple(dict.fromkeys(values)), is_setting)


def _numbers(text: str, word: str) -> Sequence[str]:
    """Return the numbers of a range like `1..4` or `0.5..2..0.5`; a text that is not a range is returned alone."""
    if ".." not in text:
        return [text]
    found = _RANGE.fullmatch(text)
    if found is None:
        raise UsageError(f"--vary {word}: {text} is not a range", "write it like 1..4, or with a step: 2..4..0.5")
    first, last, step = Decimal(found[1]), Decimal(found[2]), Decimal(found[3] or 1)
    if step <= 0:
        raise UsageError(f"--vary {word}: the step {step} does not lead from {first} to {last}", "use a step above 0")
    if first > last:
        raise UsageError(f"--vary {word}: the range {text} is empty", f"begin with the smaller number: {last}..{first}")
    count = int((last - first) / step) + 1
    _require_few(count)
    return [f"{(first + index * step).normalize():f}" for index in range(count)]


def _require_few(count: int) -> None:
    if count > MAX_CELLS:
        raise UsageError(
            f"a grid of {count:,} pictures is too large: a sheet shows at most {MAX_CELLS:,}",
            "give fewer values; generate --seed 1..9999 makes many pictures without a sheet",
        )


def _require_variable(name: str, kind: str) -> None:
    """Raise UsageError if a setting cannot differ between the pictures of a grid."""
    if name in LOAD:
        raise UsageError(
            f"{name} cannot vary within a grid, whose model is loaded once",
            f"run the command once for each {name}, and join the pictures: sensenova grid --files a.png b.png",
        )
    if name == "num_images":
        raise UsageError("num_images cannot vary: each cell is one picture", "vary the seed: --vary seed=1..4")
    if name not in IMAGE:
        raise UsageError(f"{name} does not change a picture", "vary a picture setting such as cfg_scale, or the seed")
    if name in EDIT_ONLY and kind != "edit":
        raise UsageError(f"{name} is for edits, and this grid has no input picture", "name one: --image FILE")


def _require_in_prompt(name: str, prompt: str) -> None:
    """Raise UsageError unless the prompt has a name in braces: a name that is not a setting must be one."""
    if uses_variable(prompt, name):
        return
    from config.validation import near_miss  # defines the settings' models, which other axes do not need

    meant = near_miss(name, (*IMAGE, *OTHER_NAMES))
    in_prompt = f"write {{{name}}} in the prompt, where its values go"
    raise UsageError(
        f"{name} is neither a picture setting nor a name in the prompt",
        f"did you mean {meant}? Or {in_prompt}" if meant else in_prompt,
    )


def _checked(axis: Axis) -> tuple[Any, ...]:
    """Return the values of a setting, converted to its type; errors as for `config.validation.check_values`."""
    from config.validation import Notation, check_values, join_problems  # as above

    notation = Notation(
        place=lambda name: "",
        key=lambda name: f"--vary {name}",
        equals="=",
        literal=lambda value: " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value),
        text=True,
        culprit=lambda name: f"--vary {name}: ",
    )
    values, problems = [], []
    for value in axis.values:
        try:
            values.append(check_values({axis.name: value}, notation)[axis.name])
        except SettingsError as problem:
            problems.append(problem)
    if problems:
        raise join_problems(problems)
    return tuple(values)


def _cell(prompt: Prompt, axes: Sequence[Axis], values: Sequence[Sequence[Any]], indices: Sequence[int]) -> Cell:
    chosen: Mapping[str, Any] = {
        axis.name: each[index] for axis, each, index in zip(axes, values, indices, strict=True)
    }
    settings = {axis.name: chosen[axis.name] for axis in axes if axis.is_setting}
    texts = {axis.name: (chosen[axis.name],) for axis in axes if not axis.is_setting}
    label = ", ".join(axis.labels[index] for axis, index in zip(axes, indices, strict=True))
    filled = expand_prompts([prompt], texts, "--vary")
    if len(filled) > 1:
        raise UsageError(
            f"the prompt has several forms: {filled[0].text}, {filled[1].text} …; a cell is one picture",
            'give the alternatives a name: "a {color} cat" --vary color=red,blue',
        )
    return Cell(replace(filled[0], settings={**prompt.settings, **settings}, place=f"{label}: "), label)
