from pathlib import Path

import pytest

from config import profiles as profile_files
from config.errors import SettingsError
from config.profiles import BUILT_IN_FOLDER, find_profile, is_profile_path
from config.settings import Settings
from config.toml_file import read_settings_file


def test_built_in_profiles_are_valid_and_described() -> None:
    known = profile_files.profile_files()
    assert set(known) == {
        "cpu",
        "draft",
        "fewer-passes",
        "free-form",
        "gpu-12gb",
        "gpu-16gb",
        "gpu-24gb",
        "gpu-80gb",
        "gpu-8gb",
        "ladder",
        "turbo",
    }
    for path in known.values():
        file = read_settings_file(path)
        assert file.description
        assert file.values


def test_turbo_runs_eight_steps_without_guidance() -> None:
    values = read_settings_file(find_profile("turbo")).values
    assert values == {"num_steps": 8, "cfg_scale": 1.0}


def test_profiles_with_fewer_computations() -> None:
    assert read_settings_file(find_profile("fewer-passes")).values == {"cfg_every": 2, "cfg_stop": 0.05}
    assert read_settings_file(find_profile("ladder")).values == {"half_size_until": 0.5}
    defaults = Settings()
    assert (defaults.cfg_every, defaults.cfg_stop, defaults.half_size_until) == (1, 0, 0)


def test_free_form_is_the_vendors_sampling() -> None:
    assert read_settings_file(find_profile("free-form")).values == {
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "repetition_penalty": 1.05,
    }


def test_the_cpu_profile_lets_the_processor_decide_the_number_format() -> None:
    settings = Settings(**read_settings_file(find_profile("cpu")).values)
    assert (settings.device, settings.dtype) == ("cpu", "auto")


def test_a_users_profile_replaces_a_built_in_one(user_folder: Path) -> None:
    mine = user_folder / "profiles" / "draft.toml"
    mine.write_text("num_steps = 4\n")
    assert find_profile("draft") == mine
    assert find_profile("turbo").parent == BUILT_IN_FOLDER


def test_unknown_name_lists_the_known_ones() -> None:
    known = "cpu, draft, fewer-passes, free-form, gpu-12gb, gpu-16gb, gpu-24gb, gpu-80gb, gpu-8gb, ladder, turbo"
    with pytest.raises(SettingsError, match="no profile named 'Drafft'") as raised:
        find_profile("Drafft")
    assert raised.value.hint == f"did you mean draft? Known profiles: {known}"
    with pytest.raises(SettingsError) as raised:
        find_profile("zzz")
    assert raised.value.hint == f"known profiles: {known}"


def test_an_unreadable_user_folder_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSENOVA_CONFIG_DIR", "x" * 300)
    with pytest.raises(SettingsError, match="cannot be read: File name too long"):
        find_profile("draft")


def test_paths_and_names_are_distinguished(tmp_path: Path) -> None:
    assert not is_profile_path("draft")
    assert not is_profile_path("v1.5")
    assert is_profile_path("draft.toml")
    assert is_profile_path("./draft")
    (tmp_path / "own.toml").touch()
    assert find_profile(str(tmp_path / "own.toml")) == tmp_path / "own.toml"
    with pytest.raises(SettingsError, match=r"no profile file \./draft"):
        find_profile("./draft")
    with pytest.raises(SettingsError, match="no profile file"):
        find_profile("x" * 5000 + ".toml")


def test_the_default_user_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENSENOVA_CONFIG_DIR")
    assert profile_files.user_folder().is_absolute()
    assert "sensenova" in profile_files.user_folder().parts
    assert profile_files.user_file().name == "config.toml"


@pytest.mark.parametrize(("name", "quantization"), [("gpu-8gb", "int8-all"), ("gpu-12gb", "int8-all")])
def test_profiles_that_quantize_say_so(name: str, quantization: str) -> None:
    file = read_settings_file(find_profile(name))
    assert file.values["quantization"] == quantization
    assert file.description is not None and "int8 weights" in file.description


def test_other_profiles_quantize_nothing() -> None:
    quantizing = {name for name, path in profile_files.profile_files().items() if "quantization" in path.read_text()}
    assert quantizing == {"gpu-8gb", "gpu-12gb"}
