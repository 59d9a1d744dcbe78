"""`sensenova profile`, run in this process. Its errors are raised here; the whole program prints them."""

import json
import os
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from config.errors import SenseNovaError, SettingsError
from config.recommended import RECOMMENDED_FILE
from config.settings import SETTING_NAMES, ServeSettings
from sensenova_cli.commands.profile import app
from sensenova_cli.errors import exit_code


@pytest.fixture(autouse=True)
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty user folder and an empty current folder."""
    for name in list(os.environ):
        if name.startswith("SENSENOVA_"):
            monkeypatch.delenv(name)
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.setenv("SENSENOVA_CONFIG_DIR", str(tmp_path / "user"))
    monkeypatch.chdir(project)
    return tmp_path / "user"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def succeed(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exception is None, result.exception
    return result.stdout


ALL_NAMES = [*SETTING_NAMES, *(f"serve.{name}" for name in ServeSettings.model_fields)]
BUILT_IN = [
    *("cpu", "draft", "fewer-passes", "free-form", "gpu-12gb", "gpu-16gb", "gpu-24gb", "gpu-80gb", "gpu-8gb"),
    *("ladder", "turbo"),
]


def fail(*arguments: str) -> SenseNovaError:
    error = run(*arguments).exception
    assert isinstance(error, SenseNovaError), error
    return error


def columns(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_list_gives_name_description_and_place(user_folder: Path) -> None:
    (user_folder / "profiles").mkdir(parents=True)
    (user_folder / "profiles" / "mine.toml").write_text('description = "My own."\nnum_steps = 3\n')
    rows = [columns(line) for line in succeed("list").splitlines()]
    assert [row[0] for row in rows] == [*BUILT_IN[:-1], "mine", "turbo"]
    assert rows[10] == ["mine", "My own.", str(user_folder / "profiles" / "mine.toml")]
    assert rows[9][2] == "built-in"


def test_list_as_json_is_one_object_a_line() -> None:
    rows = [json.loads(line) for line in succeed("list", "--json").splitlines()]
    assert [row["name"] for row in rows] == BUILT_IN
    assert all(row["description"] and Path(row["path"]).is_file() for row in rows)


def test_list_shows_the_good_profiles_and_fails_for_the_bad_one(user_folder: Path) -> None:
    (user_folder / "profiles").mkdir(parents=True)
    (user_folder / "profiles" / "bad.toml").write_text("num_steps = 0\n")
    result = run("list")
    assert "turbo" in result.stdout
    assert isinstance(result.exception, SettingsError)
    assert "bad.toml:1:1: num_steps = 0" in result.exception.what


def test_show_lists_every_setting_with_its_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("sensenova.toml").write_text("seed = 7\n\n[serve]\nport = 9000\n")
    monkeypatch.setenv("SENSENOVA_SERVE_MAX_QUEUE", "3")
    monkeypatch.setenv("SENSENOVA_TOP_K", "20")
    rows = {cells[0]: cells[1:] for cells in map(columns, succeed("show", "draft").splitlines())}
    assert list(rows) == ALL_NAMES
    assert rows["serve.port"] == ["9000", "project file ./sensenova.toml"]
    assert rows["serve.max_queue"] == ["3", "environment SENSENOVA_SERVE_MAX_QUEUE"]
    assert rows["serve.ui"] == ["true", "default"]
    assert rows["seed"] == ["7", "project file ./sensenova.toml"]
    assert rows["top_k"] == ["20", "environment SENSENOVA_TOP_K"]
    assert rows["num_steps"] == ["20", "profile draft"]
    assert rows["cfg_scale"] == ["2.5", "checkpoint"]  # the built-in demo's recommendation
    assert rows["t_eps"] == ["0.02", "default"]
    assert rows["model"] == ["(none)", "default"]


def test_show_is_aligned_and_not_cut_or_colored_in_a_pipe() -> None:
    folder = "x" * 300
    Path("sensenova.toml").write_text(f'model = "{folder}"\n')
    lines = succeed("show").splitlines()
    assert len(lines) == len(ALL_NAMES)
    assert any(folder in line for line in lines)
    starts = {line.index("default") for line in lines if line.endswith("default")}
    assert len(starts) == 1
    assert "\x1b" not in "".join(lines)


def test_show_as_json() -> None:
    layers = json.loads(succeed("show", "turbo", "--json"))
    assert list(layers) == ALL_NAMES
    assert layers["serve.port"] == {"value": 8642, "layer": "default"}
    assert layers["num_steps"] == {"value": 8, "layer": "profile turbo"}
    assert layers["cfg_interval"] == {"value": [0.0, 1.0], "layer": "default"}
    assert layers["model"] == {"value": None, "layer": "default"}


def test_json_of_a_file_name_that_is_not_utf8(user_folder: Path) -> None:
    (user_folder / "profiles").mkdir(parents=True)
    name = "caf\udce9"
    (user_folder / "profiles" / f"{name}.toml").write_text("seed = 1\n")
    rows = [json.loads(line) for line in succeed("list", "--json").splitlines()]
    assert rows[0]["name"] == name


def test_show_includes_what_a_local_checkpoint_recommends(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / RECOMMENDED_FILE).write_text('{"settings": {"num_steps": 12, "cfg_scale": 2.5}}')
    layers = json.loads(succeed("show", "draft", "--model", str(folder), "--json"))
    assert layers["cfg_scale"] == {"value": 2.5, "layer": "checkpoint"}
    assert layers["num_steps"] == {"value": 20, "layer": "profile draft"}
    assert layers["model"] == {"value": str(folder), "layer": "flag --model"}


def test_show_knows_the_checkpoint_of_the_settings_files(tmp_path: Path) -> None:
    (tmp_path / RECOMMENDED_FILE).write_text('{"settings": {"num_steps": 12}}')
    Path("sensenova.toml").write_text(f"model = '{tmp_path}'\n")
    assert json.loads(succeed("show", "--json"))["num_steps"] == {"value": 12, "layer": "checkpoint"}


def test_show_reports_a_checkpoint_that_is_not_on_this_machine() -> None:
    result = run("show", "--model", "SenseNova/SenseNova-U1-8B-MoT")
    assert "its recommended settings are not shown" in result.stderr
    assert "note" not in result.stdout


def test_show_of_an_unknown_profile_suggests_one() -> None:
    error = fail("show", "drat")
    assert exit_code(error) == 2
    assert "did you mean draft?" in error.hint


def test_path_of_a_profile_is_a_file() -> None:
    assert Path(succeed("path", "turbo").strip()).read_text().startswith("description")


def test_path_without_a_name_lists_all_places(user_folder: Path) -> None:
    Path("sensenova.toml").touch()
    rows = {cells[0]: cells[1:] for cells in map(columns, succeed("path").splitlines())}
    assert rows["user file"] == [str(user_folder / "config.toml"), "does not exist yet"]
    assert rows["project file"] == [str(Path("sensenova.toml").absolute())]
    assert rows["user profiles"] == [str(user_folder / "profiles"), "does not exist yet"]


def test_init_writes_the_user_file_and_changes_nothing_yet(user_folder: Path) -> None:
    before = succeed("show")
    assert succeed("init").strip() == str(user_folder / "config.toml")
    assert succeed("show") == before
    text = (user_folder / "config.toml").read_text(encoding="utf-8")
    assert all(f"#{name} = " in text for name in SETTING_NAMES)


def test_init_makes_a_profile_that_can_be_used(user_folder: Path) -> None:
    file = Path(succeed("init", "mine").strip())
    assert file == user_folder / "profiles" / "mine.toml"
    file.write_text(file.read_text(encoding="utf-8").replace("#num_steps = 50", "num_steps = 9"), encoding="utf-8")
    assert json.loads(succeed("show", "mine", "--json"))["num_steps"] == {"value": 9, "layer": "profile mine"}


def test_init_of_a_built_in_name_copies_its_values() -> None:
    file = Path(succeed("init", "turbo").strip())
    values = tomllib.loads(file.read_text(encoding="utf-8"))
    assert values.pop("description")
    assert values == {"num_steps": 8, "cfg_scale": 1.0, "serve": {}}


def test_init_takes_a_path_and_makes_its_folder() -> None:
    assert succeed("init", "new/folder/mine.toml").strip() == "new/folder/mine.toml"
    assert Path("new/folder/mine.toml").is_file()


def test_init_never_overwrites_unless_forced() -> None:
    Path("sensenova.toml").write_text("seed = 7\n")
    error = fail("init", "./sensenova.toml")
    assert exit_code(error) == 2
    assert error.hint == "add -f to replace it"
    assert Path("sensenova.toml").read_text() == "seed = 7\n"
    succeed("init", "./sensenova.toml", "-f")
    assert "seed = 42" in Path("sensenova.toml").read_text(encoding="utf-8")


def test_forced_init_through_a_link_writes_the_file_it_points_to() -> None:
    Path("real.toml").write_text("seed = 7\n")
    Path("sensenova.toml").symlink_to("real.toml")
    succeed("init", "./sensenova.toml", "-f")
    assert Path("sensenova.toml").is_symlink()
    assert "seed = 42" in Path("real.toml").read_text(encoding="utf-8")


def test_init_in_an_unwritable_folder() -> None:
    Path("file").touch()
    error = fail("init", "file/mine.toml")
    assert "cannot be written" in error.what
    assert exit_code(error) == 1


def test_init_refuses_names_with_spaces() -> None:
    error = fail("init", "two words")
    assert exit_code(error) == 2
    assert "not allowed as the name of a profile" in error.what


def test_init_refuses_a_path_without_an_ending() -> None:
    assert "not allowed as the name of a profile" in fail("init", "some/where").what


def test_check_knows_profiles_by_name() -> None:
    succeed("init", "mine")
    assert succeed("check", "mine", "draft") == "mine: ok\ndraft: ok\n"
    Path("no-ending").write_text("seed = 1\n")
    assert succeed("check", "no-ending") == "no-ending: ok\n"


def test_show_reads_the_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "models--someone--tiny"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text("{}")
    (snapshot / RECOMMENDED_FILE).write_text('{"settings": {"num_steps": 9}}')
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    shown = json.loads(succeed("show", "--model", "someone/tiny", "--json"))
    assert shown["num_steps"] == {"value": 9, "layer": "checkpoint"}
    other = run("show", "--model", "someone/other")
    assert "someone/other is not on this machine" in other.stderr
    assert "some--one/x is not on this machine" in run("show", "--model", "some--one/x").stderr


def test_check_accepts_valid_files_and_names_bad_ones() -> None:
    Path("good.toml").write_text("seed = 7\n")
    Path("bad.toml").write_text("cfg_scal = 7\n")
    Path("worse.toml").write_text("seed = \n")
    assert succeed("check", "good.toml") == "good.toml: ok\n"
    result = run("check", "good.toml", "bad.toml", "worse.toml", "missing.toml")
    assert result.stdout == "good.toml: ok\n"
    assert isinstance(result.exception, SettingsError)
    assert exit_code(result.exception) == 2
    assert [line.split(": ")[0] for line in result.exception.what.splitlines()] == [
        "./bad.toml:1:1",
        "./worse.toml:1:8",
        "./missing.toml",
    ]
    assert "did you mean cfg_scale?" in result.exception.hint
