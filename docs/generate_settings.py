"""Generate what repeats the declarations of the settings: the tables of docs/settings.md, and
config/declarations.json. Run `python -m docs.generate_settings`."""

import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from config.declarations import FILE, Kind
from config.settings import (
    GROUPS,
    ImageSettings,
    LoadSettings,
    OutputSettings,
    PromptSettings,
    ServeSettings,
    SettingsGroup,
    TextSettings,
)
from config.toml_file import toml_literal
from config.validation import expected

PAGE = Path(__file__).parent / "settings.md"
HEADING = "## All settings\n"
SERVE_GROUP: tuple[str, type[SettingsGroup]] = ("`sensenova serve`: the table `[serve]`", ServeSettings)


def settings_tables() -> str:
    """Return one table per group, with default, values and meaning. A setting of two groups is listed once.

    The server's settings are apart: one of them may have the name of another setting."""
    tables: list[str] = []
    listed: set[str] = set()
    for title, group in (*GROUPS, SERVE_GROUP):
        rows = [_row(name, group) for name in group.model_fields if name not in listed or group is ServeSettings]
        listed |= set(group.model_fields)
        head = [f"### {title}", "", "| setting | default | values | meaning |", "| --- | --- | --- | --- |"]
        tables.append("\n".join([*head, *rows]) + "\n")
    return "\n".join(tables)


def _row(name: str, group: type[SettingsGroup]) -> str:
    field = group.model_fields[name]
    default = "none" if field.default is None else f"`{toml_literal(field.default)}`"
    return f"| `{name}` | {default} | {expected(name, group)} | {field.description} |"


def generated_page(page: str) -> str:
    """Return the page with new tables."""
    before, heading, _ = page.partition(HEADING)
    return f"{before}{heading}\n{settings_tables()}"


def declarations() -> str:
    """Return the contents of config/declarations.json."""
    groups: dict[str, type[SettingsGroup]] = {
        "image": ImageSettings,
        "prompt": PromptSettings,
        "text": TextSettings,
        "load": LoadSettings,
        "output": OutputSettings,
        "serve": ServeSettings,
    }
    lines = {group: ",\n".join(_lines(settings)) for group, settings in groups.items()}
    return "{\n" + ",\n".join(f'"{group}": {{\n{each}\n}}' for group, each in lines.items()) + "\n}\n"


def _lines(group: type[SettingsGroup]) -> list[str]:
    """Return a line for each setting, so that a change of one setting changes one line."""
    declared = {name: _declaration(group, name) for name in group.model_fields}
    return [f'"{name}": {json.dumps(each, ensure_ascii=False)}' for name, each in declared.items()]


def _declaration(group: type[SettingsGroup], name: str) -> dict[str, Any]:
    field = group.model_fields[name]
    is_choice = get_origin(field.annotation) is Literal
    choices = get_args(field.annotation) if is_choice else ()
    return {
        "help": field.description,
        "default": field.default,
        "kind": _kind(field.annotation),
        "choices": choices,
    }


def _kind(annotation: Any) -> Kind:
    """Return the kind of a setting's values, also if they may be None or words as well."""
    if get_origin(annotation) is tuple:
        return "pair"
    kinds = {bool: "bool", int: "int", float: "float"}
    if annotation in kinds:
        return kinds[annotation]
    for part in get_args(annotation):
        if (found := _kind(part)) != "text":
            return found
    return "text"


if __name__ == "__main__":
    PAGE.write_text(generated_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    FILE.write_text(declarations(), encoding="utf-8")
