import json
from pathlib import Path

import pytest

from config.errors import SettingsError
from config.recommended import RECOMMENDED_FILE, Recommended, read_recommended
from config.sizes import TRAINED_SIZES


def _write(folder: Path, contents: object) -> Path:
    text = contents if isinstance(contents, str) else json.dumps(contents)
    (folder / RECOMMENDED_FILE).write_text(text, encoding="utf-8")
    return folder


def test_a_checkpoint_without_the_file_has_the_published_values(tmp_path: Path) -> None:
    recommended = read_recommended(tmp_path)
    assert recommended.trained_sizes == TRAINED_SIZES
    assert recommended.settings == {}
    assert (recommended.answer_input.min, recommended.answer_input.max) == (65_536, 4_194_304)


def test_file_is_read(tmp_path: Path) -> None:
    folder = _write(
        tmp_path,
        {
            "settings": {"num_steps": 8, "cfg_interval": [0.1, 0.6]},
            "trained_sizes": [[64, 96]],
            "edit_input": {"min": 1024, "max": 9216},
        },
    )
    recommended = read_recommended(folder)
    assert recommended.settings["num_steps"] == 8
    assert recommended.trained_sizes == ((64, 96),)
    assert recommended.edit_input.max == 9216


def test_interleaved_answers_have_recommendations_of_their_own(tmp_path: Path) -> None:
    section = {"settings": {"size": "256x256", "num_steps": 24}, "trained_sizes": [[256, 256]]}
    settings = {"num_steps": 10, "cfg_scale": 2.5, "max_tokens": 64, "think": False}
    recommended = read_recommended(_write(tmp_path, {"settings": settings, "interleave": section}))
    own = recommended.for_interleaving()
    # The task's defaults are above the settings that are meant for other tasks.
    assert own.settings == {
        "num_steps": 24,
        "cfg_scale": 2.5,
        "max_tokens": 8192,
        "think": True,
        "size": "256x256",
    }
    assert own.trained_sizes == ((256, 256),)
    assert (recommended.settings, recommended.trained_sizes) == (settings, TRAINED_SIZES)
    assert Recommended().for_interleaving().trained_sizes[0] == (2048, 1152)


def test_settings_of_a_lora_are_above_those_of_every_task() -> None:
    recommended = Recommended(settings={"num_steps": 50}, interleave={"settings": {"num_steps": 24, "cfg_scale": 3.0}})
    quick = recommended.overridden_by({"num_steps": 8})
    assert quick.settings == {"num_steps": 8}
    assert quick.for_interleaving().settings["num_steps"] == 8
    assert quick.for_interleaving().settings["cfg_scale"] == 3.0


def test_limits_lower_the_defaults_of_interleaved_answers_alone() -> None:
    recommended = Recommended(settings={"max_tokens": 500}, interleave={"settings": {"max_images": 4}})
    limited = recommended.limited({"max_images": 3, "max_tokens": 100})
    assert limited.settings == {"max_tokens": 500}
    assert limited.for_interleaving().settings == {"think": True, "max_images": 3, "max_tokens": 100}
    assert recommended.limited({"max_images": 4, "max_tokens": 8192}) == recommended
    assert Recommended().limited({"max_images": 9}).for_interleaving().settings["max_images"] == 9


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ([], "the file: must be an object"),
        ({"trained_size": [[64, 64]]}, "unknown key trained_size; did you mean trained_sizes?"),
        ({"trained_sizes": [[64, 65]]}, "trained_sizes.0.1: must be a multiple of 32"),
        ({"trained_sizes": [[64]]}, "trained_sizes.0.1: is missing"),
        ({"trained_sizes": []}, "trained_sizes: must not be empty"),
        ({"answer_input": {"min": 5, "max": 1}}, "answer_input: min 5 is above max 1"),
        ({"interleave": {"trained_size": []}}, "unknown key interleave.trained_size; did you mean trained_sizes?"),
        ({"interleave": {"settings": {"num_steps": 0}}}, "interleave.settings"),
        ({"settings": {"num_steps": 0}}, '"num_steps": 0: must be a whole number from 1 to 1000'),
        ({"settings": {"num_step": 9}}, 'unknown setting "num_step"'),
        ({"settings": {"output": "/etc/"}}, '"output" may not be set here'),
        ({"settings": {"device": "cpu"}}, '"device" may not be set here'),
    ],
)
def test_bad_file_is_named_with_the_reason(tmp_path: Path, contents: object, reason: str) -> None:
    with pytest.raises(SettingsError) as raised:
        read_recommended(_write(tmp_path, contents))
    assert RECOMMENDED_FILE in raised.value.what
    assert reason in raised.value.what
    assert "pydantic" not in raised.value.what
    assert len(raised.value.what.splitlines()) == 1
    assert raised.value.hint


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / RECOMMENDED_FILE).mkdir()
    with pytest.raises(SettingsError, match="cannot be read"):
        read_recommended(tmp_path)


def test_pictures_of_one_edit_share_a_budget() -> None:
    recommended = Recommended()
    assert recommended.edit_limits(1).max == 2048 * 2048
    assert recommended.edit_limits(4).max == 2048 * 2048
    assert recommended.edit_limits(8).max == 4096 * 4096 // 8
    assert recommended.edit_limits(8).min == 512 * 512
    assert recommended.edit_limits(100).min == recommended.edit_limits(100).max
