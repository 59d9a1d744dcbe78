"""Validation of settings from one source, with error messages in plain words."""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from pydantic import ValidationError

from config.errors import SettingsError
from config.mentions import respell
from config.settings import SETTING_NAMES, Settings, SettingsGroup

SIZE_FLAGS = ("width", "height", "aspect")
"""Flags that are not settings, although users may expect so: they all set `size`."""

OTHER_NAMES: Mapping[str, str] = {
    "steps": "num_steps",
    "inference_steps": "num_steps",
    "guidance_scale": "cfg_scale",
    "cfg": "cfg_scale",
    "negative_prompt": "negative",
    "shift": "timestep_shift",
    "max_new_tokens": "max_tokens",
}
"""Names that other programs, or our flags, have for a setting → its name here."""

LONGEST_VALUE = 60
"""Maximum number of characters of a wrong value that a message quotes."""


@dataclass(frozen=True)
class Notation:
    """Notation of settings in one source. Messages use it to quote a setting as the user wrote it.

    Attributes:
        place: name of a setting → start of the message, such as `sensenova.toml:3:1: `.
        key: name of a setting → its name in the source, such as SENSENOVA_SEED.
        equals: text between name and value.
        literal: a value → its text in the source.
        text: whether values are text and must be converted (environment, flags), or have types (TOML, JSON).
        culprit: like `place`, for messages that do not contain `key`.
    """

    place: Callable[[str], str]
    key: Callable[[str], str]
    equals: str
    literal: Callable[[Any], str]
    text: bool
    culprit: Callable[[str], str] | None = None

    def assignment(self, name: str, value: Any) -> str:
        """Return an assignment like `num_steps = 0`, with long values cut."""
        literal = self.literal(value)
        if len(literal) > LONGEST_VALUE:
            literal = literal[: LONGEST_VALUE - 1] + "…"
        return f"{self.key(name)}{self.equals}{literal}"


def json_notation(place: Callable[[str], str]) -> Notation:
    """Return the notation of JSON files: `"num_steps": 20`; `place` as for Notation."""
    return Notation(
        place=place,
        key=json.dumps,
        equals=": ",
        literal=lambda value: json.dumps(value, ensure_ascii=False),
        text=False,
    )


def check_values(
    values: Mapping[str, Any],
    notation: Notation,
    allowed: Iterable[str] = SETTING_NAMES,
    group: type[SettingsGroup] = Settings,
) -> dict[str, Any]:
    """Check the values of one source and return them, converted to the settings' types.

    Args:
        group: the group that declares the allowed settings.

    Raises:
        SettingsError: the source has unknown names, wrong types or values out of bounds; the message lists all.
    """
    allowed = tuple(allowed)
    checked: dict[str, Any] = {}
    problems: list[SettingsError] = []
    for name, value in values.items():
        try:
            if name not in allowed:
                raise _unknown(name, notation, allowed)
            checked[name] = _check_value(name, value, notation, group)
        except SettingsError as problem:
            problems.append(problem)
    if problems:
        raise join_problems(problems)
    return checked


def join_problems(problems: Iterable[SettingsError]) -> SettingsError:
    """Join several errors into one, with each hint once."""
    problems = list(problems)
    hints = dict.fromkeys(problem.hint for problem in problems if problem.hint)
    return SettingsError("\n".join(problem.what for problem in problems), "\n".join(hints))


def near_miss(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known word that is nearest to a misspelled one, without regard to case and dashes; None if none is."""
    spelling = {name.lower().replace("-", "_"): name for name in known}
    found = get_close_matches(word.lower().replace("-", "_"), spelling, n=1, cutoff=cutoff)
    return spelling[found[0]] if found else None


def expected(name: str, group: type[SettingsGroup] = Settings) -> str:
    """Describe the values of a setting, like `a whole number from 1 to 1000` or `auto, native or …`."""
    return join_or(_choices(_schema(group)[name]))


def join_or(words: list[str]) -> str:
    """Join words: ['a', 'b', 'c'] → 'a, b or c'."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _check_value(name: str, value: Any, notation: Notation, group: type[SettingsGroup]) -> Any:
    try:
        return _convert(name, value, group, strict=not notation.text)
    except SettingsError as error:
        # Our own validators raise it, with a sentence that quotes the value.
        place = (notation.culprit or notation.place)(name)
        # After a place in a file, or a key, the setting has its plain name. Only flags are spelled by the frontend.
        what = respell(error.what, lambda setting, _: setting) if place else error.what
        raise SettingsError(place + what, error.hint) from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
    own = problem["type"] == "value_error"
    reason = str(problem["ctx"]["error"]) if own else f"must be {expected(name, group)}"
    hint = (None if own else _correction(name, value, notation, group)) or _example(name, notation, group)
    raise SettingsError(f"{notation.place(name)}{notation.assignment(name, value)}: {reason}", hint)


def _correction(name: str, value: Any, notation: Notation, group: type[SettingsGroup]) -> str | None:
    """Suggest a correction if a wrong value is near a valid one."""
    if isinstance(value, str):
        with suppress(ValidationError):
            return f"write {notation.assignment(name, _convert(name, value, group, strict=False))} without quotes"
        meant = near_miss(value, _words(_schema(group)[name]), cutoff=0.5)
        if meant:
            return f"did you mean {notation.assignment(name, meant)}?"
    elif not notation.text and isinstance(value, int | float):
        with suppress(ValidationError, SettingsError):
            return f"put it in quotes: {notation.assignment(name, _convert(name, str(value), group, strict=True))}"
    return None


def _example(name: str, notation: Notation, group: type[SettingsGroup]) -> str:
    """Suggest a valid value of a setting."""
    field = group.model_fields[name]
    if field.examples:
        return f"for example {notation.assignment(name, field.examples[0])}"
    if field.default is None:
        return f"remove {notation.key(name)}"
    return f"the default is {notation.assignment(name, field.default)}"


def _convert(name: str, value: Any, group: type[SettingsGroup], strict: bool) -> Any:
    return getattr(group.model_validate({name: value}, strict=strict), name)


def _unknown(name: str, notation: Notation, allowed: tuple[str, ...]) -> SettingsError:
    if name in SETTING_NAMES:
        return SettingsError(
            f"{notation.place(name)}{notation.key(name)} may not be set here", f"remove {notation.key(name)}"
        )
    what = f"{notation.place(name)}unknown setting {notation.key(name)}"
    if name in SIZE_FLAGS:
        ratio = name == "aspect"
        return SettingsError(what, f"use {notation.assignment('size', '16:9' if ratio else '2048x2048')}")
    other_names = [other for other, ours in OTHER_NAMES.items() if ours in allowed]
    if meant := near_miss(name, (*allowed, *other_names)):
        return SettingsError(what, f"did you mean {notation.key(OTHER_NAMES.get(meant, meant))}?")
    return SettingsError(
        what,
        f"remove {notation.key(name)}; `sensenova profile init all.toml` writes a file with all settings",
    )


@cache
def _schema(group: type[SettingsGroup]) -> dict[str, Any]:
    return group.model_json_schema()["properties"]


def _choices(node: dict[str, Any]) -> list[str]:
    """Describe the alternatives of a JSON-schema node."""
    if "anyOf" in node:
        return [choice for option in node["anyOf"] if option.get("type") != "null" for choice in _choices(option)]
    if "enum" in node or "const" in node:
        return _fixed(node)
    if "examples" in node:
        return [f"like {node['examples'][0]}", *node["examples"][1:]]
    match node["type"]:
        case "boolean":
            return ["true", "false"]
        case "integer":
            return ["a whole number" + _bounds(node)]
        case "number":
            return ["a number" + _bounds(node)]
        case "array":
            return [f"{len(node['prefixItems'])} values, each {join_or(_choices(node['prefixItems'][0]))}"]
        case _:
            return ["text"]


def _words(node: dict[str, Any]) -> list[str]:
    """Return the words that a JSON-schema node accepts."""
    return [word for option in node.get("anyOf", [node]) for word in _fixed(option)]


def _fixed(node: dict[str, Any]) -> list[str]:
    """Return the values that a node lists: `enum` for several, `const` for one."""
    return list(node.get("enum", [node["const"]] if "const" in node else []))


def _bounds(node: dict[str, Any]) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" of at least {low}"
    if high is not None:
        return f" above {node['exclusiveMinimum']} and at most {high}"
    return ""
