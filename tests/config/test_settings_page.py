"""docs/settings.md is written by hand; it must not fall behind the schema."""

from pathlib import Path

import pytest

from config.check import expected
from config.load import FOREIGN_VARIABLES, OTHER_VARIABLES
from config.profile_files import BUILT_IN_FOLDER
from config.schema import SETTING_NAMES, Settings
from config.toml_file import toml_literal

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SETTING_NAMES)
def test_setting_is_on_the_page_as_it_is(name: str) -> None:
    field = Settings.model_fields[name]
    default = "none" if field.default is None else f"`{toml_literal(field.default)}`"
    assert f"| `{name}` | {default} | {expected(name)} | {field.description} |" in PAGE.splitlines()


def test_page_names_no_setting_that_is_gone() -> None:
    table = PAGE.split("## All settings")[1]
    listed = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert listed == list(SETTING_NAMES)


def test_profiles_and_variables_are_on_the_page() -> None:
    for path in BUILT_IN_FOLDER.glob("*.toml"):
        assert f"| `{path.stem}` |" in PAGE
    for variable, meaning in OTHER_VARIABLES.items():
        assert f"| `{variable}` | {meaning.replace('--profile', '`--profile`')} |" in PAGE
    for variable in FOREIGN_VARIABLES:
        assert f"`{variable}`" in PAGE
