import math

import pytest
from pydantic import ValidationError

from config.errors import SettingsError
from config.settings import GROUPS, SETTING_NAMES, ImageSettings, Settings, TextSettings


def test_defaults_are_the_published_settings() -> None:
    settings = Settings()
    assert (settings.seed, settings.num_steps, settings.cfg_scale, settings.img_cfg_scale) == (42, 50, 4.0, 1.0)
    assert (settings.timestep_shift, settings.t_eps, settings.cfg_norm) == (3.0, 0.02, "none")
    assert (settings.max_tokens, settings.do_sample, settings.temperature) == (512, False, 0.7)
    assert settings.max_think_tokens == 1024
    assert settings.dtype == "auto"


def test_every_setting_is_listed_once_and_explained() -> None:
    assert len(SETTING_NAMES) == len(set(SETTING_NAMES))
    assert set(SETTING_NAMES) == set(Settings.model_fields)
    for name in SETTING_NAMES:
        assert Settings.model_fields[name].description, name
    assert {name for _, group in GROUPS for name in group.model_fields} == set(SETTING_NAMES)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("num_steps", 0),
        ("num_steps", 1001),
        ("seed", -1),
        ("seed", 2**63),
        ("num_images", 0),
        ("cfg_scale", math.nan),
        ("cfg_scale", math.inf),
        ("img_cfg_scale", -1),
        ("timestep_shift", 0),
        ("t_eps", 0),
        ("cfg_interval", (0.6, 0.1)),
        ("cfg_interval", (-0.1, 1)),
        ("cfg_interval", (0.1,)),
        ("cfg_interval", "0.1"),
        ("cfg_norm", "locale"),
        ("max_think_tokens", 0),
        ("max_tokens", 0),
        ("temperature", 0),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("repetition_penalty", 0),
        ("input_pixels", 100),
        ("input_pixels", 10**12),
        ("device", "gpu"),
        ("device", "cuda:"),
        ("dtype", "int8"),
        ("noise", "gpu"),
        ("model", ""),
        ("output", " "),
        ("steps", 3),
    ],
)
def test_bad_value_is_refused(name: str, bad: object) -> None:
    with pytest.raises(ValidationError) as raised:
        Settings.model_validate({name: bad})
    assert raised.value.errors()[0]["loc"][0] == name


@pytest.mark.parametrize("value", ["0.1,0.6", "0.1 0.6", " 0.1 , 0.6 ", [0.1, 0.6], (0.1, 0.6)])
def test_interval_is_read_from_text_and_lists(value: object) -> None:
    assert Settings.model_validate({"cfg_interval": value}).cfg_interval == (0.1, 0.6)


def test_sizes_are_normalized() -> None:
    assert ImageSettings(size=" 2048×1536 ").size == "2048x1536"
    assert ImageSettings(size="AUTO").size == "auto"
    assert ImageSettings(size="16:9").size == "16:9"


@pytest.mark.parametrize("size", ["large", "1000x1000", "0:1", ""])
def test_a_wrong_size_has_a_hint(size: str) -> None:
    with pytest.raises(SettingsError) as raised:
        ImageSettings(size=size)
    assert raised.value.hint


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        ImageSettings().num_steps = 3


def test_settings_of_a_turn_fit_both_kinds_of_request() -> None:
    settings = Settings(seed=7, num_steps=3, top_k=5)
    assert isinstance(settings, ImageSettings)
    assert isinstance(settings, TextSettings)


def test_settings_are_equal_after_json() -> None:
    settings = Settings(cfg_interval=(0.1, 0.6), input_pixels=4096, size="64x96")
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
