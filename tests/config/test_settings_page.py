"""docs/settings.md: its tables are generated from the declarations, and the rest mentions everything that it should.
So is config/declarations.json."""

from pathlib import Path

from config.declarations import DECLARATIONS, FILE, SERVE
from config.profiles import BUILT_IN_FOLDER
from config.settings import SETTING_NAMES, ServeSettings
from config.sources import FOREIGN_VARIABLES, OTHER_VARIABLES
from docs.generate_settings import declarations, generated_page

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")


def test_tables_are_generated_from_the_declarations() -> None:
    assert generated_page(PAGE) == PAGE, "run: python -m docs.generate_settings"
    listed = [line.split("`")[1] for line in PAGE.split("## All settings")[1].splitlines() if line.startswith("| `")]
    assert sorted(listed) == sorted((*SETTING_NAMES, *ServeSettings.model_fields))


def test_the_file_of_declarations_is_generated() -> None:
    assert FILE.read_text(encoding="utf-8") == declarations(), "run: python -m docs.generate_settings"
    assert (tuple(DECLARATIONS), tuple(SERVE)) == (SETTING_NAMES, tuple(ServeSettings.model_fields))
    assert DECLARATIONS["cfg_norm"].choices == ("none", "global", "channel", "cfg_zero_star")
    kinds = {name: DECLARATIONS[name].kind for name in ("cfg_interval", "gpus", "cache_threshold", "model", "think")}
    assert kinds == {
        "cfg_interval": "pair", "gpus": "int", "cache_threshold": "float", "model": "text", "think": "bool",
    }  # fmt: skip


def test_profiles_and_variables_are_on_the_page() -> None:
    for path in BUILT_IN_FOLDER.glob("*.toml"):
        assert f"| `{path.stem}` |" in PAGE
    for variable, meaning in OTHER_VARIABLES.items():
        assert f"| `{variable}` | {meaning.replace('--profile', '`--profile`')} |" in PAGE
    for variable in FOREIGN_VARIABLES:
        assert f"`{variable}`" in PAGE
