"""`verification.json`: its format, its bounds, and the published pictures."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from model import OFFICIAL_MODEL
from model.checkpoint.builtin import DEMO_CHECKPOINT
from model.verification.checks import (
    MAX_POINTS,
    Checks,
    VerificationError,
    find_checks,
    published_checks,
    published_models,
    read_checks,
)
from tests.cli.harness import REPOSITORY

VALID: dict[str, Any] = {
    "source": "a test",
    "dtype": "float32",
    "pictures": [
        {
            "name": "first",
            "prompt": "a cat",
            "settings": {"size": "64x96", "num_steps": 2},
            "pixels": [{"at": [63, 95], "rgb": [0, 128, 255]}],
        },
        {
            "name": "second",
            "prompt": "make it red",
            "edits": "first",
            "settings": {"size": "64x64"},
            "pixels": [{"at": [0, 0], "rgb": [1, 2, 3]}],
        },
    ],
}


def read(folder: Path, fields: Any) -> Checks:
    file = folder / "verification.json"
    file.write_text(fields if isinstance(fields, str) else json.dumps(fields))
    return read_checks(file)


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """Return the valid file with one value replaced."""
    fields = copy.deepcopy(VALID)
    part: Any = fields
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = to
    return fields


def test_a_valid_file(tmp_path: Path) -> None:
    checks = read(tmp_path, VALID)
    first, second = checks.pictures
    assert (first.size, first.tolerance, first.is_edit) == ((64, 96), 10, False)
    assert (second.is_edit, second.edits) == (True, "first")
    assert first.image_settings.cfg_scale == 4.0, "the program's default"
    assert first.request().prompt == "a cat"


def test_the_example_of_the_docs(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "checkpoints.md").read_text()
    (example,) = [block for block in re.findall(r"```json\n(.*?)```", page, flags=re.DOTALL) if '"pixels"' in block]
    assert [check.name for check in read(tmp_path, example).pictures] == ["circle", "edit"]


def test_the_tolerance_depends_on_the_number_format(tmp_path: Path) -> None:
    first = read(tmp_path, changed("pictures", 0, "tolerance_in_dtype", to=2)).pictures[0]
    assert first.tolerance_for("float32", "float32") == 2
    assert first.tolerance_for("bfloat16", "float32") == 10


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "must be a JSON object"),
        ("[" * 100_000, "is not valid JSON"),
        ({}, "source: is missing"),
        (changed("pictures", to=[]), "pictures"),
        (changed("pictures", to=VALID["pictures"][:1] * 9), "pictures"),
        (changed("pictures", to=VALID["pictures"][:1] * 2), "two pictures have the name 'first'"),
        (changed("dtype", to="int8"), "dtype"),
        (changed("command", to="rm -rf ~"), "unknown key command"),
        (changed("pictures", 0, "pixel", to=[]), "did you mean pixels?"),
        (changed("pictures", 0, "prompt", to=""), "pictures.0.prompt"),
        (changed("pictures", 0, "prompt", to="x" * 10_001), "pictures.0.prompt"),
        (changed("pictures", 0, "tolerance", to=200), "pictures.0.tolerance"),
        (changed("pictures", 0, "pixels", to=[]), "pictures.0.pixels"),
        (changed("pictures", 0, "pixels", to=VALID["pictures"][0]["pixels"] * (MAX_POINTS + 1)), "pictures.0.pixels"),
        (changed("pictures", 0, "pixels", 0, "at", to=[64, 0]), "[64, 0] is outside of 64x96"),
        (changed("pictures", 0, "pixels", 0, "at", to=[-1, 0]), "pictures.0.pixels.0.at"),
        (changed("pictures", 0, "pixels", 0, "rgb", to=[0, 0, 256]), "pictures.0.pixels.0.rgb"),
        (changed("pictures", 0, "settings", to={}), "size must be in pixels"),
        (changed("pictures", 0, "settings", "size", to="16:9"), "size must be in pixels"),
        (changed("pictures", 0, "settings", "size", to="64x65"), "try 64x64 or 64x96"),
        (changed("pictures", 0, "settings", "size", to="4096x4096"), "a check may have 8,388,608 at most"),
        (changed("pictures", 0, "settings", "num_steps", to=101), "num_steps is 101"),
        (changed("pictures", 0, "settings", "max_think_tokens", to=5000), "max_think_tokens is 5,000"),
        (changed("pictures", 0, "settings", "num_images", to=100), "num_images"),
        (changed("pictures", 0, "settings", "output", to="/etc/passwd"), "output"),
        (changed("pictures", 0, "settings", "model", to="other/model"), "model"),
        (changed("pictures", 0, "settings", "cache", to="fast"), "cache"),
        (changed("pictures", 1, "edits", to="third"), "edits 'third', which is not an earlier picture"),
        (changed("pictures", 1, "edits_file", to="a.jpg"), "give edits or edits_file, not both"),
        (changed("pictures", 1, "settings", "cfg_norm", to="cfg_zero_star"), "works for generating only"),
        ({**changed("pictures", 0, "tolerance_in_dtype", to=1), "dtype": None}, "the file has no dtype"),
        (changed("configuration", to={str(number): 1 for number in range(51)}), "configuration"),
        (changed("checksums", to={"../secret": "0" * 64}), "checksums"),
        (changed("checksums", to={"a.json": "0"}), "checksums"),
    ],
)
def test_a_damaged_file(tmp_path: Path, fields: Any, message: str) -> None:
    with pytest.raises(VerificationError) as raised:
        read(tmp_path, fields)
    assert message in f"{raised.value.what}\n{raised.value.hint}"
    assert str(tmp_path / "verification.json") in raised.value.what
    assert "docs/checkpoints.md" in raised.value.hint


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (changed("pictures", 0, "tolerance", to=-1), "pictures.0.tolerance: must be greater than or equal to 0"),
        (changed("pictures", 0, "pixels", 0, "at", to=[64, 0]), "pixels of 'first': [64, 0] is outside of 64x96"),
        (changed("pictures", to=[]), "pictures: must have 1 items at least"),
        (changed("pictures", to=1), "pictures: must be a list"),
        (
            changed("configuration", to={"a": None}),
            "configuration.a: must be true, false, a finite number or a text",
        ),
        (
            changed("configuration", to={"a": float("nan")}),
            "configuration.a: must be true, false, a finite number or a text",
        ),
        (
            changed("checksums", to={"../weights": "0" * 64}),
            "checksums.../weights: must be the name of a file in the folder, with its sha256 in lower case",
        ),
        (
            changed("pictures", 0, "name", to="first\nmodel passed"),
            "pictures.0.name: must be one line of text",
        ),
        (changed("source", to="a\x1b[31m"), "source: must be one line of text"),
    ],
)
def test_one_mistake_is_one_line(tmp_path: Path, fields: Any, message: str) -> None:
    with pytest.raises(VerificationError) as caught:
        read(tmp_path, fields)
    assert caught.value.what == f"{tmp_path}/verification.json: {message}"


def test_a_file_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="at most 255 characters"):
        read(tmp_path, changed("checksums", to={"x" * 256: "0" * 64}))


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="more than 1,000,000 bytes"):
        read(tmp_path, " " * 1_000_001)


def test_the_published_pictures() -> None:
    assert published_models() == [OFFICIAL_MODEL]
    checks = published_checks(OFFICIAL_MODEL)
    assert checks is not None
    drawn, edited = checks.pictures
    assert (drawn.size, edited.size) == ((1536, 2720), (2560, 1664))
    assert all(len(check.pixels) == 10 and check.tolerance == 10 for check in checks.pictures)
    for check in checks.pictures:
        settings = check.image_settings
        assert (settings.seed, settings.num_steps, settings.cfg_scale, settings.timestep_shift) == (42, 50, 4.0, 3.0)
        assert settings.think and settings.img_cfg_scale == 1.0 and settings.cfg_norm == "none"
    assert edited.edits_file == "2560px-Gfp-wisconsin-madison-the-nature-boardwalk.jpg"
    assert "test_sensenova_u1_text2img.py" in checks.source


@pytest.mark.parametrize("model", [OFFICIAL_MODEL, f"{OFFICIAL_MODEL}@main", "models--SenseNova--SenseNova-U1-8B-MoT"])
def test_a_model_is_found_by_its_id_or_its_folder_in_the_hub_cache(tmp_path: Path, model: str) -> None:
    folder = tmp_path / model / "snapshots" / "1234" if model.startswith("models--") else tmp_path
    assert find_checks(model, folder) == published_checks(OFFICIAL_MODEL)


@pytest.mark.parametrize("model", ["someone/else", "../../secret", "demo", "SenseNova--SenseNova-U1-8B-MoT"])
def test_other_models_have_no_published_pictures(tmp_path: Path, model: str) -> None:
    assert find_checks(model, tmp_path) is None


def test_a_file_beside_the_weights_wins(tmp_path: Path) -> None:
    read(tmp_path, VALID)
    checks = find_checks(OFFICIAL_MODEL, tmp_path)
    assert checks is not None and checks.source == "a test"


def test_the_demo_has_one() -> None:
    checks = find_checks("demo", DEMO_CHECKPOINT)
    assert checks is not None
    assert [check.name for check in checks.pictures] == ["circle", "strong guidance", "edit"]
    assert all(check.image_settings.noise == "cpu" for check in checks.pictures), "the same noise on every device"
