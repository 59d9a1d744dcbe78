"""`sensenova verify`: its report, its exit codes, and the pictures that it saves."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model.checkpoint.builtin import DEMO_CHECKPOINT
from tests.cli.harness import Program

GENERATE = {
    "name": "drawn",
    "prompt": "a cat",
    "settings": {"size": "64x96", "num_steps": 3, "seed": 7, "noise": "cpu"},
    "pixels": [{"at": [0, 0], "rgb": [7, 5, 3]}, {"at": [63, 95], "rgb": [17, 5, 3]}],
}
"""A check that the fake engine passes: its pictures have the color (seed, length of the prompt, steps)."""
EDIT = {
    "name": "edited",
    "prompt": "red",
    "edits": "drawn",
    "settings": {"size": "64x64", "num_steps": 4, "seed": 9},
    "pixels": [{"at": [0, 0], "rgb": [9, 3, 4]}],
}


@pytest.fixture
def folder(home: Path, tiny_checkpoint: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, home / "tiny"))


def write(folder: Path, *pictures: dict[str, Any], **more: Any) -> None:
    fields = {"source": "a test", "pictures": pictures, **more}
    (folder / "verification.json").write_text(json.dumps(fields))


def test_pictures_as_expected(program: Program, folder: Path, home: Path) -> None:
    write(folder, GENERATE, EDIT)
    outcome = program("verify", "tiny")
    assert outcome.code == 0
    lines = outcome.stdout.splitlines()
    assert lines[0].split()[:2] == ["configuration", "passed"]
    assert "pictures: a test" in lines
    assert "drawn passed: 2 of 2 pixels within 10 of 255 (verify-a-cat-7.png)" in lines
    assert lines[lines.index("drawn passed: 2 of 2 pixels within 10 of 255 (verify-a-cat-7.png)") + 1].split() == [
        "x", "y", "expected", "found", "difference",
    ]  # fmt: skip
    assert ["63", "95", "17", "5", "3", "7", "5", "3", "10"] in [line.split() for line in lines]
    assert lines[-1] == "tiny passed: the files and 2 pictures are as expected"
    assert Image.open(home / "verify-a-cat-7.png").size == (64, 96)
    generated, edited = program.engines[0].requests
    assert generated.settings.num_steps == 3
    assert edited.images[0].getpixel((0, 0)) == (7, 5, 3), "the picture of the first check"


def test_a_wrong_pixel(program: Program, folder: Path) -> None:
    wrong = {**GENERATE, "tolerance": 9}
    write(folder, wrong, EDIT)
    outcome = program("verify", "tiny")
    assert outcome.code == 1
    assert "drawn FAILED: 1 of 2 pixels within 9 of 255 (verify-a-cat-7.png)" in outcome.stdout
    rows = [line for line in outcome.stdout.splitlines() if line.endswith("above 9")]
    assert len(rows) == 1 and rows[0].split()[:2] == ["63", "95"]
    assert outcome.stdout.splitlines()[-1] == "tiny FAILED: drawn"
    assert "edited passed" in outcome.stdout, "the others are compared all the same"


def test_json(program: Program, folder: Path) -> None:
    write(folder, {**GENERATE, "tolerance": 9})
    outcome = program("verify", "tiny", "--json", "-q")
    assert (outcome.code, outcome.stderr) == (1, "")
    (line,) = outcome.stdout.splitlines()
    found = json.loads(line)
    assert found["passed"] is False
    assert [each["name"] for each in found["files"]] == ["configuration", "tensors", "tokenizer", "checksums", "values"]
    (picture,) = found["pictures"]
    assert (picture["status"], picture["path"], picture["tolerance"]) == ("failed", "verify-a-cat-7.png", 9)
    pixel = {"at": [63, 95], "expected": [17, 5, 3], "found": [7, 5, 3], "difference": 10, "passed": False}
    assert picture["pixels"][1] == pixel


def test_a_checkpoint_without_pictures(program: Program, folder: Path) -> None:
    outcome = program("verify", "tiny")
    assert outcome.code == 0
    assert "pictures: none are known for this model, so only its files are checked" in outcome.stdout
    assert outcome.stdout.splitlines()[-1] == "tiny passed: the files are as expected"
    assert program.engines == []
    assert json.loads(program("verify", "tiny", "--json").stdout)["no_pictures"].startswith("none are known")


def test_quick(program: Program, folder: Path) -> None:
    write(folder, {**GENERATE, "tolerance": 9})
    outcome = program("verify", "tiny", "--quick")
    assert outcome.code == 0
    assert "pictures: not drawn: --quick" in outcome.stdout
    assert program.engines == []


def test_damaged_files(program: Program, folder: Path) -> None:
    write(folder, GENERATE)
    (folder / "tokenizer.json").unlink()
    outcome = program("verify", "tiny")
    assert outcome.code == 1
    assert "pictures: not drawn, because the files have failed" in outcome.stdout
    assert outcome.stdout.splitlines()[-1] == "tiny FAILED: tokenizer"
    assert program.engines == []


@pytest.mark.parametrize(
    ("section", "name", "value", "line"),
    [
        (None, "noise_scale_max_value", 8.0, "noise_scale_max_value is 8.0, and should be 16.0"),
        ("llm_config", "rope_theta", 1e6, "llm_config.rope_theta is 1000000.0, and should be 5000000.0"),
    ],
)
def test_a_changed_configuration_of_the_demo(
    program: Program, home: Path, section: str | None, name: str, value: float, line: str
) -> None:
    shutil.copytree(DEMO_CHECKPOINT, home / "changed")
    fields = json.loads((home / "changed" / "config.json").read_text())
    (fields[section] if section else fields)[name] = value
    (home / "changed" / "config.json").write_text(json.dumps(fields))
    outcome = program("verify", "changed")
    assert outcome.code == 1
    assert f"config.json: {line}" in outcome.stdout
    assert outcome.stdout.splitlines()[-1] == "changed FAILED: configuration"


def test_a_wrong_checksum_is_no_obstacle_for_the_pictures(program: Program, folder: Path) -> None:
    write(folder, GENERATE, checksums={"config.json": "0" * 64})
    outcome = program("verify", "tiny")
    assert outcome.code == 1
    assert "config.json has the checksum" in outcome.stdout
    assert "drawn passed" in outcome.stdout
    assert outcome.stdout.splitlines()[-1] == "tiny FAILED: checksums"


def test_a_damaged_verification_file(program: Program, folder: Path) -> None:
    write(folder, {**GENERATE, "settings": {"size": "64x96", "num_images": 9}})
    outcome = program("verify", "tiny")
    assert outcome.code == 3
    assert "num_images" in outcome.stderr
    assert "docs/checkpoints.md" in outcome.stderr


def test_a_picture_that_the_user_has_to_supply(program: Program, folder: Path, home: Path) -> None:
    supplied = {key: value for key, value in EDIT.items() if key != "edits"} | {"edits_file": "lake.jpg"}
    follower = {**EDIT, "name": "again", "edits": "edited", "pixels": [{"at": [0, 0], "rgb": [9, 3, 4]}]}
    write(folder, GENERATE, supplied, follower)
    outcome = program("verify", "tiny")
    assert outcome.code == 0
    assert "edited skipped: needs the picture lake.jpg: add --edit-image FILE" in outcome.stdout
    assert "again skipped: edits the picture 'edited', which is skipped" in outcome.stdout
    assert outcome.stdout.splitlines()[-1] == "tiny passed: the files and 1 picture are as expected; 2 skipped"
    Image.new("RGB", (70, 50), "red").save(home / "other.png")
    outcome = program("verify", "tiny", "--edit-image", "other.png")
    assert "skipped:" not in outcome.stdout
    assert program.engines[-1].requests[1].images[0].size == (70, 50)
    outcome = program("verify", "tiny", "--edit-image", "missing.png")
    assert outcome.code == 2
    assert "missing.png" in outcome.stderr
    assert outcome.stdout == "", "the files, which can take minutes, are checked later"


def test_existing_pictures_are_kept(program: Program, folder: Path, home: Path) -> None:
    write(folder, GENERATE)
    program("verify", "tiny")
    (home / "verify-a-cat-7.png").write_bytes(b"mine")
    assert "(verify-a-cat-7-2.png)" in program("verify", "tiny").stdout
    assert (home / "verify-a-cat-7.png").read_bytes() == b"mine"
    assert "(out/verify-a-cat-7.png)" in program("verify", "tiny", "-o", "out/").stdout
    assert "(named.png)" in program("verify", "tiny", "-o", "named.png").stdout
    assert program("verify", "tiny", "-o", "named.png").code == 2
    assert program("verify", "tiny", "-o", "-").code == 2


def test_a_saved_picture_can_be_made_again(program: Program, folder: Path, home: Path) -> None:
    write(folder, GENERATE)
    program("verify", "tiny")
    assert program("generate", "--from", "verify-a-cat-7.png", "--trust-record", "-o", "again.png").code == 0
    assert (home / "again.png").read_bytes() == (home / "verify-a-cat-7.png").read_bytes()


def test_settings_of_the_user_do_not_change_the_pictures(
    program: Program, folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, GENERATE, dtype="float32")
    monkeypatch.setenv("SENSENOVA_NUM_STEPS", "9")
    monkeypatch.setenv("SENSENOVA_OUTPUT", "elsewhere.png")
    monkeypatch.setenv("SENSENOVA_LORA", "style.safetensors")
    outcome = program("verify", "tiny")
    assert outcome.code == 0
    assert "note: --lora is ignored: the checkpoint itself is verified" in outcome.stderr
    assert (home / "verify-a-cat-7.png").exists()
    assert (program.loaded[-1].dtype, program.loaded[-1].lora) == ("float32", None)
    program("verify", "tiny", "--dtype", "bfloat16")
    assert program.loaded[-1].dtype == "bfloat16"


def test_the_demo_is_the_default(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENSENOVA_MODEL")
    outcome = program("verify", "--quick")
    assert outcome.code == 0
    assert outcome.stderr.count("Using the built-in demo") == 1
    assert outcome.stdout.splitlines()[-1] == "demo passed: the files are as expected"


def test_published_pictures_for_a_copy_in_a_folder(program: Program, folder: Path) -> None:
    outcome = program("verify", "tiny", "--published", "SenseNova/SenseNova-U1-8B-MoT")
    assert outcome.code == 1, "this is another model"
    assert "config.json: llm_config.num_hidden_layers is 3, and should be 42" in outcome.stdout
    outcome = program("verify", "tiny", "--published", "some/body")
    assert outcome.code == 2
    assert "use --published SenseNova/SenseNova-U1-8B-MoT" in outcome.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("tiny", "--model", "other"), 2, "tiny and --model other contradict each other"),
        (("absent/",), 3, "there is no checkpoint folder absent/"),
        (("tiny", "--size", "64x64"), 2, "no such option: --size"),
    ],
)
def test_wrong_usage(program: Program, folder: Path, words: tuple[str, ...], code: int, message: str) -> None:
    outcome = program("verify", *words)
    assert outcome.code == code
    assert message in outcome.stderr.lower() if "no such" in message else message in outcome.stderr
