"""Expansion of prompts: alternatives in braces, variables and several seeds become one prompt for each combination.

    a {red|blue} cat             becomes    a red cat, a blue cat
    a {color} cat                with `--var color=red,blue` the same
    a {{red|blue}} cat           becomes    a {red|blue} cat: doubled braces are plain ones

Braces that contain neither alternatives nor the name of a variable stay as they are. Prompts vary slowest; then the
variables in the order in which they were given, then the alternatives from left to right, and seeds fastest.
"""

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from math import prod

from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.prompts import Prompt

MAX_PROMPTS = 10_000
"""Most combinations of prompts and seeds of one run."""
MAX_SEED = 2**63 - 1
RANDOM_SEEDS = 2**32
"""Random seeds are below this, because other programs accept no larger ones."""
MAX_DEPTH = 50
"""Deepest nesting of braces. A brace below it is plain text."""
RANDOM = "random"

_MARKS = re.compile(r"[{|}]")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_NUMBER = re.compile(r"\s*(\d{1,40})\s*", re.ASCII)
_RANGE = re.compile(r"\s*(\d{1,40})\s*\.\.\s*(\d{1,40})\s*", re.ASCII)
_DASHED = re.compile(r"\s*(\d+)\s*[-–:]\s*(\d+)\s*", re.ASCII)

Variables = Mapping[str, Sequence[str]]
"""Name → values of each `--var`."""


@dataclass(frozen=True)
class Seeds:
    """Seeds of a range, of a list or of `random`.

    Attributes:
        text: the value of `--seed`, in which a number stands for `random`.
        ranges: the seeds in order.
        is_random: whether the seed was drawn by this program.
    """

    text: str
    ranges: tuple[range, ...]
    is_random: bool = False

    @property
    def count(self) -> int:
        """The number of seeds, which may be huge."""
        return sum(each.stop - each.start for each in self.ranges)


def take_seeds(flags: Flags) -> tuple[Flags, Seeds | None]:
    """Return flags without their `--seed` and its seeds if it is a range or a list; else the flags with one seed.

    Raises:
        UsageError: the range or the list is not valid, or `-n` would make a picture of it twice.
    """
    text = str(flags.settings.get("seed", ""))
    if text.strip().lower() == RANDOM and flags.skip_existing:
        raise UsageError(
            "--seed random draws another seed each time, so --skip-existing would find no picture",
            "give the seed as a number",
        )
    if not _is_several(text):
        return with_one_seed(flags), None
    seeds = parse_seeds(text)
    _require_no_overlap(seeds, flags.settings.get("num_images"))
    return replace(flags, settings={name: value for name, value in flags.settings.items() if name != "seed"}), seeds


def with_one_seed(flags: Flags, hint: str = "give one number, or random") -> Flags:
    """Return flags with a number in place of `--seed random`.

    Args:
        hint: what to give instead of several seeds.

    Raises:
        UsageError: the seed is a range or a list.
    """
    text = str(flags.settings.get("seed", ""))
    if _is_several(text):
        raise UsageError(f"--seed {text}: only one seed is possible here", hint)
    if text.strip().lower() != RANDOM:
        return flags
    seed = parse_seeds(text).text
    return replace(flags, settings={**flags.settings, "seed": seed}, drawn_seed=seed)


def _is_several(text: str) -> bool:
    return ".." in text or "," in text or _DASHED.fullmatch(text) is not None


def parse_seeds(text: str, option: str = "--seed ") -> Seeds:
    """Read a range such as `1..8`, a list such as `3,5,9` or `1..4,9`, or `random`.

    Args:
        option: how the user typed the option, for messages.

    Raises:
        UsageError: the text is none of these, a range is empty, or a seed is too large or there twice.
    """
    if text.strip().lower() == RANDOM:
        seed = secrets.randbelow(RANDOM_SEEDS)
        return Seeds(str(seed), (range(seed, seed + 1),), is_random=True)
    ranges = tuple(_parse_range(part, text, option) for part in text.split(","))
    last: range | None = None
    for each in sorted(ranges, key=lambda each: each.start):
        if last is not None and each.start < last.stop:
            raise UsageError(f"{option}{text}: the seed {each.start} is there twice", "give each seed once")
        last = each
    return Seeds(text, ranges)


def parse_variables(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    r"""Read the values of `--var`, such as `color=red,blue`; `\,` is a comma inside a value.

    Raises:
        UsageError: a name is not valid or is given twice, or a variable has no values.
    """
    variables: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip()
        if not equals or not NAME.fullmatch(name):
            raise UsageError(f"--var {word} is not a variable", "write it like --var color=red,blue")
        if name in variables:
            raise UsageError(f"--var {name} is given twice", f"write all its values in one: --var {name}=a,b,c")
        values = split_values(text)
        if not all(values):
            what = "a value is empty" if any(values) else "it has no values"
            raise UsageError(f"--var {word}: {what}", f"write it like --var {name}=red,blue")
        variables[name] = values
    return variables


def split_values(text: str) -> tuple[str, ...]:
    r"""Split a list at its commas; `\,` is a comma inside a value."""
    return tuple(part.replace("\\,", ",").strip() for part in re.split(r"(?<!\\),", text))


def uses_variable(text: str, name: str) -> bool:
    """Return whether a prompt has this name in braces."""
    return name in _names(_parse(text, {name: ()}))


def expand_prompts(prompts: Sequence[Prompt], variables: Variables, option: str = "--var") -> list[Prompt]:
    """Return the prompts for each combination of their alternatives and of the variables that they use.

    Args:
        option: the option that defines variables, for messages.

    Raises:
        UsageError: no prompt uses a variable, a prompt uses a name that no variable has, or there are too many
            combinations.
    """
    parsed = [_parse(prompt.text, variables) for prompt in prompts]
    names = {name for nodes in parsed for name in _names(nodes)}
    for prompt, nodes in zip(prompts, parsed, strict=True):
        for name in _names(nodes):
            if name not in variables:
                raise _unknown_variable(prompt, name, variables, option)
    for name, values in variables.items():
        if name not in names:
            raise UsageError(
                f"--var {name}={','.join(values)}: no prompt uses it",
                f"write {{{name}}} in the prompt, or leave it out",
            )
    _require_few(sum(_count(nodes, variables) for nodes in parsed), "alternatives and values")
    return [
        prompt if nodes == [prompt.text] else replace(prompt, text=text)
        for prompt, nodes in zip(prompts, parsed, strict=True)
        for text in _texts(nodes, variables)
    ]


def escaped_prompt(text: str) -> str:
    """Return the text that `expand_prompts` turns into `text` again if there are no variables."""
    return "".join(map(str, _parse(text, {}, escapes=True)))


def with_seeds(prompts: Sequence[Prompt], seeds: Seeds | None) -> list[Prompt]:
    """Return each prompt with each of the seeds. A line of a prompt file that has its own seed keeps that one.

    Raises:
        UsageError: there are too many combinations.
    """
    if seeds is None:
        return list(prompts)
    _require_few(sum(1 if "seed" in each.settings else seeds.count for each in prompts), "prompts and seeds")
    numbers = [seed for each in seeds.ranges for seed in each]
    return [
        prompt if seed is None else replace(prompt, settings={**prompt.settings, "seed": seed})
        for prompt in prompts
        for seed in ([None] if "seed" in prompt.settings else numbers)
    ]


def _parse_range(part: str, text: str, option: str) -> range:
    if dashed := _DASHED.fullmatch(part):
        raise UsageError(f"{option}{text} is not a range", f"try {option}{dashed[1]}..{dashed[2]}")
    ends = _RANGE.fullmatch(part) or _NUMBER.fullmatch(part)
    if ends is None:
        raise UsageError(
            f"{option}{text}: {part.strip() or 'an empty place'} is neither a number nor a range",
            "write it like 7, 3,5,9, 1..8 or random",
        )
    first, last = int(ends[1]), int(ends[ends.lastindex or 1])
    if first > last:
        raise UsageError(
            f"{option}{text}: the range {part.strip()} is empty", f"begin with the smaller number: {last}..{first}"
        )
    if last > MAX_SEED:
        raise UsageError(f"{option}{text}: the seed {last} is too large", f"the largest one is {MAX_SEED}")
    return range(first, last + 1)


def _require_no_overlap(seeds: Seeds, typed_count: object) -> None:
    """Refuse `-n` if it would make a picture twice, because picture k of a prompt has its seed + k."""
    try:
        count = int(str(typed_count or 1))
    except ValueError:
        return  # the settings refuse it
    ordered = sorted(seeds.ranges, key=lambda each: each.start)
    inside = any(each.stop - each.start > 1 for each in ordered)
    between = any(after.start < before.stop - 1 + count for before, after in pairwise(ordered))
    if count > 1 and (inside or between):
        raise UsageError(
            f"--seed {seeds.text} with -n {count} would make pictures twice: -n {count} makes {count} pictures "
            "from each seed on",
            f"leave -n out, or give seeds that are {count} apart",
        )


def _require_few(count: int, of_what: str) -> None:
    if count > MAX_PROMPTS:
        raise UsageError(
            f"{count:,} combinations of {of_what} are too many: a run makes at most {MAX_PROMPTS:,}",
            f"give fewer {of_what}, or split the run",
        )


def _unknown_variable(prompt: Prompt, name: str, variables: Variables, option: str) -> UsageError:
    from config.validation import near_miss  # defines the settings' models, which other prompts do not need

    meant = near_miss(name, variables)
    solution = f"write {{{meant}}}" if meant else f"add {option} {name}=…"
    return UsageError(
        f"{prompt.place}the prompt uses {{{name}}}, which no {option} defines",
        f"{solution}, or {{{{{name}}}}} for plain braces",
    )


@dataclass
class _Variable:
    """A name in braces; `source` is the text with the braces."""

    name: str
    source: str


@dataclass
class _Alternatives:
    """Texts in braces, of which one is used; `source` is the text with the braces."""

    branches: list["_Nodes"]
    source: str


_Nodes = list[str | _Variable | _Alternatives]


@dataclass
class _Open:
    """A brace that is not closed yet, at position `start` of the text."""

    start: int
    branches: list[_Nodes] = field(default_factory=lambda: [[]])


def _parse(text: str, variables: Variables, *, escapes: bool = False) -> _Nodes:
    """Return the parts of a prompt; with `escapes` only texts, in which the braces of alternatives are doubled."""
    if "|" not in text and not variables:
        return [text]
    open_braces = [_Open(0)]
    position = 0

    def add_text(stop: int) -> None:
        if stop > position:
            open_braces[-1].branches[-1].append(text[position:stop])

    for mark in _MARKS.finditer(text):
        is_inside = len(open_braces) > 1
        if mark[0] == "{" and len(open_braces) <= MAX_DEPTH:
            add_text(mark.start())
            open_braces.append(_Open(mark.start()))
        elif mark[0] == "|" and is_inside:
            add_text(mark.start())
            open_braces[-1].branches.append([])
        elif mark[0] == "}" and is_inside:
            add_text(mark.start())
            group = open_braces.pop()
            source = text[group.start : mark.end()]
            if escapes and len(group.branches) > 1:
                open_braces[-1].branches[-1].append(f"{{{source}}}")
            else:
                open_braces[-1].branches[-1] += _closed(group, source, bool(variables))
        else:
            continue
        position = mark.end()
    add_text(len(text))
    nodes: _Nodes = []
    for index, each in enumerate(open_braces):  # only the first one is not a brace without an end
        nodes += (["{"] if index else []) + [node for branch in _joined(each.branches) for node in branch]
    return _merged(nodes)


def _closed(group: _Open, source: str, has_variables: bool) -> _Nodes:
    """Return the parts that a closed pair of braces stands for."""
    if len(group.branches) > 1:
        return [_Alternatives([_merged(branch) for branch in group.branches], source)]
    name = source[1:-1].strip()
    if has_variables and NAME.fullmatch(name):
        return [_Variable(name, source)]
    content = group.branches[0]
    if len(content) == 1 and not isinstance(content[0], str) and source[1:-1] == content[0].source:
        return [content[0].source]  # doubled braces
    return ["{", *content, "}"]


def _joined(branches: list[_Nodes]) -> list[_Nodes]:
    """Return branches of a brace without an end, with the bars between them as plain text."""
    return [branches[0], *(["|", *branch] for branch in branches[1:])]


def _merged(nodes: _Nodes) -> _Nodes:
    """Join neighbouring texts."""
    merged: _Nodes = []
    texts: list[str] = []
    for node in [*nodes, None]:
        if isinstance(node, str):
            texts.append(node)
            continue
        if texts:
            merged.append("".join(texts))
        texts = []
        if node is not None:
            merged.append(node)
    return merged or [""]


def _names(nodes: _Nodes) -> dict[str, None]:
    """Return the names of the variables, in the order of the text."""
    names: dict[str, None] = {}
    for node in nodes:
        if isinstance(node, _Variable):
            names[node.name] = None
        elif isinstance(node, _Alternatives):
            for branch in node.branches:
                names |= _names(branch)
    return names


def _count(nodes: _Nodes, variables: Variables) -> int:
    def alternatives(nodes: _Nodes) -> int:
        return prod(sum(map(alternatives, node.branches)) for node in nodes if isinstance(node, _Alternatives))

    return alternatives(nodes) * prod(len(variables[name]) for name in _names(nodes))


def _texts(nodes: _Nodes, variables: Variables) -> list[str]:
    """Return the texts in order, each once: a variable may be in an alternative that is not used."""
    used = _names(nodes)
    names = [name for name in variables if name in used]
    texts: dict[str, None] = {}
    for values in product(*(variables[name] for name in names)):
        texts |= dict.fromkeys(_choices(nodes, dict(zip(names, values, strict=True))))
    return list(texts)


def _choices(nodes: _Nodes, values: Mapping[str, str]) -> Iterable[str]:
    options: list[Sequence[str]] = []
    for node in nodes:
        if isinstance(node, str):
            options.append([node])
        elif isinstance(node, _Variable):
            options.append([values[node.name]])
        else:
            options.append([text for branch in node.branches for text in _choices(branch, values)])
    return map("".join, product(*options))
