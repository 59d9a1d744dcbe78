"""Generate the tables of docs/settings.md from the declarations: `python -m docs.generate_settings`."""

from pathlib import Path

from config.settings import GROUPS, ServeSettings, SettingsGroup
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


if __name__ == "__main__":
    PAGE.write_text(generated_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
