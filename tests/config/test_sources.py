from pathlib import Path

import pytest

from config.errors import SettingsError
from config.recommended import Recommended
from config.settings import SETTING_NAMES, Settings
from config.sources import resolve

PROJECT = Path("sensenova.toml")


def test_without_any_layer_all_is_default() -> None:
    resolved = resolve()
    assert resolved.settings == Settings()
    assert resolved.origins == dict.fromkeys(SETTING_NAMES, "default")


def test_layers_win_in_their_order(user_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer sets one setting less than the layer below, so each layer wins once."""
    names = [
        "num_steps",
        "max_tokens",
        "max_think_tokens",
        "top_k",
        "seed",
        "num_images",
        "input_pixels",
        "timestep_shift",
    ]

    def values(layer: int) -> dict[str, int]:
        return {name: (5000 if name == "input_pixels" else 10) + layer for name in names[layer:]}

    def toml(layer: int) -> str:
        return "".join(f"{name} = {value}\n" for name, value in values(layer).items())

    (user_folder / "config.toml").write_text(toml(1))
    PROJECT.write_text(toml(2))
    (user_folder / "profiles" / "mine.toml").write_text(toml(3))
    for name, value in values(4).items():
        monkeypatch.setenv(f"SENSENOVA_{name.upper()}", str(value))
    resolved = resolve(
        values(6),
        profile="mine",
        recommended=Recommended(settings=values(0)),
        record=values(5),
        record_label="picture cat.png",
        line=values(7),
    )
    origins = [resolved.origins[name] for name in names]
    assert origins == [
        "checkpoint",
        f"user file {user_folder / 'config.toml'}",
        "project file ./sensenova.toml",
        "profile mine",
        "environment SENSENOVA_SEED",
        "picture cat.png",
        "flag --input-pixels",
        "prompt file",
    ]
    expected = [(5000 if name == "input_pixels" else 10) + layer for layer, name in enumerate(names)]
    assert [getattr(resolved.settings, name) for name in names] == expected
    assert resolved.origins["cfg_scale"] == "default"


def test_flags_take_text_and_values() -> None:
    resolved = resolve({"num_steps": "7", "cfg_interval": ("0.1", "0.6"), "seed": 3, "think": True})
    assert resolved.settings == Settings(num_steps=7, cfg_interval=(0.1, 0.6), seed=3, think=True)


def test_flags_that_were_not_typed_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSENOVA_SEED", "9")
    resolved = resolve({"seed": None, "metadata": False})
    assert resolved.settings.seed == 9
    assert resolved.origins["seed"] == "environment SENSENOVA_SEED"
    assert resolved.origins["metadata"] == "flag --no-metadata"


@pytest.mark.parametrize(
    ("flags", "what", "hint"),
    [
        ({"num_steps": "0"}, "--num-steps 0: must be a whole number from 1 to 1000", "the default is --num-steps 50"),
        (
            {"cfg_scale": float("inf")},
            "--cfg-scale inf: must be a number from 0 to 100",
            "the default is --cfg-scale 4.0",
        ),
        (
            {"cfg_interval": (0.5, 0.1)},
            "--cfg-interval 0.5 0.1: the low end 0.5 is above the high end 0.1",
            "the default is --cfg-interval 0.0 1.0",
        ),
        ({"device": "gpu"}, "--device gpu: must be like auto, cpu, cuda, cuda:1 or mps", "for example --device auto"),
        ({"size": "100x100"}, "size 100x100: both sides must be multiples of 32", "try 96x96 or 128x128"),
        (
            {"dtype": "bf16"},
            "--dtype bf16: must be auto, bfloat16, float16 or float32",
            "did you mean --dtype bfloat16?",
        ),
    ],
)
def test_bad_flag_is_named(flags: dict[str, object], what: str, hint: str) -> None:
    with pytest.raises(SettingsError) as raised:
        resolve(flags)
    assert (raised.value.what, raised.value.hint) == (what, hint)


@pytest.mark.parametrize("text", ["true", "1", "yes", "on", "True", "ON"])
def test_environment_variable_is_true(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SENSENOVA_THINK", text)
    assert resolve().settings.think is True


@pytest.mark.parametrize("text", ["false", "0", "no", "off"])
def test_environment_variable_is_false(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SENSENOVA_METADATA", text)
    resolved = resolve()
    assert resolved.settings.metadata is False
    assert resolved.origins["metadata"] == "environment SENSENOVA_METADATA"


@pytest.mark.parametrize("text", ["0.1,0.6", "0.1 0.6"])
def test_environment_variable_with_two_numbers(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SENSENOVA_CFG_INTERVAL", text)
    assert resolve().settings.cfg_interval == (0.1, 0.6)


@pytest.mark.parametrize(
    ("variable", "text", "what", "hint"),
    [
        (
            "SENSENOVA_SEED",
            "-1",
            "SENSENOVA_SEED=-1: must be a whole number from 0",
            "the default is SENSENOVA_SEED=42",
        ),
        (
            "SENSENOVA_THINK",
            "maybe",
            "SENSENOVA_THINK=maybe: must be true or false",
            "the default is SENSENOVA_THINK=false",
        ),
        (
            "SENSENOVA_CFG_INTERVAL",
            "1,0",
            "SENSENOVA_CFG_INTERVAL=1,0: the low end 1 is above the high end 0",
            "SENSENOVA_CFG_INTERVAL=0.0,1.0",
        ),
        ("SENSENOVA_SIZE", "1x1", "SENSENOVA_SIZE: size 1x1: both sides must be multiples", "try 32x32"),
        ("SENSENOVA_SEEED", "1", "unknown setting SENSENOVA_SEEED", "did you mean SENSENOVA_SEED?"),
        ("SENSENOVA_PROFIL", "x", "unknown setting SENSENOVA_PROFIL", "did you mean SENSENOVA_PROFILE?"),
        ("SENSENOVA_WIDTH", "64", "unknown setting SENSENOVA_WIDTH", "use SENSENOVA_SIZE=2048x2048"),
        ("SENSENOVA_ZZZ", "1", "unknown setting SENSENOVA_ZZZ", "remove SENSENOVA_ZZZ"),
        ("SENSENOVA_PROFILE", "trbo", "SENSENOVA_PROFILE: there is no profile named 'trbo'", "did you mean turbo?"),
    ],
)
def test_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, text: str, what: str, hint: str) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(SettingsError) as raised:
        resolve()
    assert raised.value.what.startswith(what)
    assert hint in raised.value.hint


def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    PROJECT.write_text("seed = 5\n")
    monkeypatch.setenv("SENSENOVA_SEED", "")
    assert resolve().settings.seed == 5


def test_web_service_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSENOVA_API_KEY", "sk-1")
    monkeypatch.setenv("SENSENOVA_BASE_URL", "https://example.org")
    assert resolve().settings == Settings()


def test_a_typed_profile_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSENOVA_PROFILE", "turbo")
    assert resolve().origins["num_steps"] == "profile turbo"
    assert resolve(profile="draft").origins["num_steps"] == "profile draft"
    assert resolve(profile="draft").settings.cfg_scale == 4.0
    with pytest.raises(SettingsError, match="there is no profile named ''"):
        resolve(profile="")


def test_profile_by_path(tmp_path: Path) -> None:
    Path("mine.toml").write_text("seed = 5\n")
    resolved = resolve(profile="mine.toml")
    assert resolved.settings.seed == 5
    assert resolved.origins["seed"] == "profile ./mine.toml"


def test_mistake_in_the_user_file_names_it(user_folder: Path) -> None:
    (user_folder / "config.toml").write_text("seed = 1\nsede = 2\n")
    with pytest.raises(SettingsError) as raised:
        resolve()
    assert raised.value.what == f"{user_folder / 'config.toml'}:2:1: unknown setting sede"


def test_an_unreadable_user_folder_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SENSENOVA_CONFIG_DIR", str(tmp_path / ("x" * 300)))
    with pytest.raises(SettingsError, match=r"config\.toml: cannot be read: File name too long"):
        resolve()


def test_a_checkpoint_may_not_recommend_paths() -> None:
    with pytest.raises(SettingsError, match='recommended settings of the checkpoint: "output" may not be set'):
        resolve(recommended=Recommended(settings={"output": "/etc/"}))


def test_a_bad_line_of_a_prompt_file_is_named() -> None:
    with pytest.raises(SettingsError, match=r'prompts\.jsonl:3: num_steps = "many": must be a whole number'):
        resolve(line={"num_steps": "many"}, line_label="prompts.jsonl:3")
    assert resolve({"seed": 1}, line={"seed": 7}, line_label="prompts.jsonl:3").origins["seed"] == "prompts.jsonl:3"


def test_the_record_of_a_picture_gives_its_settings() -> None:
    made = Settings(size="64x96", cfg_interval=(0.1, 0.6), seed=11, num_steps=3)
    assert resolve(record=made.model_dump(exclude={"model", "output"})).settings == made
    assert resolve(record=made.model_dump(mode="json", exclude={"model", "output"})).settings == made


def test_all_memory_overrides_a_profile() -> None:
    """A profile for one small GPU is refused on several GPUs, and the hint works."""
    with pytest.raises(SettingsError, match="`gpu_memory` is for one GPU") as raised:
        resolve(profile="gpu-8gb", flags={"tensor_parallel_size": 2})
    assert raised.value.hint == "leave one of them out; `gpu_memory=all` overrides a profile"
    resolved = resolve(profile="gpu-8gb", flags={"tensor_parallel_size": 2, "gpu_memory": "all"})
    assert resolved.settings.gpu_memory_bytes is None
