"""The input pictures of a replayed edit: where they are found, and errors if they are not."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from model.errors import PictureError
from sensenova_cli.inputs.pictures import read_inputs, recorded_inputs
from sensenova_cli.outputs.picture_files import read_record
from sensenova_cli.outputs.picture_record import PictureRecord
from tests.cli.harness import Program


@pytest.fixture
def edited(program: Program, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`A/out/e.png`, edited in A from `in.png`; the current folder is B, which has another `in.png`."""
    for folder, color in (("A", "red"), ("B", "blue")):
        (home / folder).mkdir()
        Image.new("RGB", (64, 64), color).save(home / folder / "in.png")
    monkeypatch.chdir(home / "A")
    assert program("edit", "x", "--image", "in.png", "-o", "out/e.png").code == 0
    monkeypatch.chdir(home / "B")
    return Path("../A/out/e.png")


def found(made: Path, *, trusted: bool = False) -> Path:
    (source,) = recorded_inputs(record(made), made, trusted=trusted)
    return Path(source.source.path)


def record(made: Path) -> PictureRecord:
    known = read_record(made)
    assert known is not None
    return known


def refused(made: Path, *, trusted: bool = False) -> str:
    with pytest.raises(PictureError) as caught:
        recorded_inputs(record(made), made, trusted=trusted)
    assert "`images=FILE`" in caught.value.hint
    return caught.value.what


def test_a_trusted_picture_is_found_from_any_folder(edited: Path, home: Path, program: Program) -> None:
    assert found(edited, trusted=True) == home / "A" / "in.png"
    outcome = program("edit", "--from", str(edited), "--trust-record", "-o", "again.png")
    assert outcome.code == 0, outcome.stderr
    assert Path("again.png").read_bytes() == edited.read_bytes()


def test_recorded_paths_of_other_folders_are_not_opened(edited: Path, home: Path, program: Program) -> None:
    outcome = program("edit", "--from", str(edited), "-o", "again.png")
    assert outcome.code == 2 and not Path("again.png").exists()
    assert f"was edited from {home}/A/in.png, which is not in the folder of {edited}" in outcome.stderr
    assert "--image FILE" in outcome.stderr and "--trust-record" in outcome.stderr
    before = refused(edited)
    (home / "A" / "in.png").unlink()
    assert refused(edited) == before, "the message does not show whether the file exists"


def test_another_picture_of_the_same_name_is_not_used(edited: Path, home: Path) -> None:
    (home / "A" / "in.png").unlink()
    missing = f"{home}/A/in.png, from which {edited} was edited, does not exist"
    assert refused(edited, trusted=True) == missing
    shutil.copy("in.png", edited.parent)
    beside = home / "B" / edited.parent / "in.png"
    for trusted in (False, True):
        assert refused(edited, trusted=trusted).endswith(f", and {beside} is another picture")


def test_a_picture_that_was_moved_beside_the_result_is_found(edited: Path, home: Path) -> None:
    (home / "A" / "in.png").rename(home / "A" / "out" / "in.png")
    Image.new("RGB", (64, 64), "green").save(home / "A" / "in.png")
    assert found(edited).samefile(home / "A" / "out" / "in.png")


def test_a_changed_picture_is_an_error(edited: Path, home: Path) -> None:
    Image.new("RGB", (64, 64), "green").save(home / "A" / "in.png")
    assert refused(edited, trusted=True) == f"{home}/A/in.png has changed since {edited} was edited from it"


@pytest.mark.parametrize("make", ["link", "pipe"])
def test_a_link_or_pipe_beside_the_result_is_not_opened(edited: Path, home: Path, make: str) -> None:
    beside = edited.parent / "in.png"
    if make == "link":
        beside.symlink_to(home / "A" / "in.png")
    else:
        os.mkfifo(beside)
    assert "is not in the folder" in refused(edited)


@pytest.mark.parametrize("path", ["in\0.png", "x" * 300, "~nobody/in.png", "/", "../in.png", "/proc/kmsg"])
@pytest.mark.parametrize("trusted", [False, True])
def test_a_record_with_an_impossible_file_name(edited: Path, path: str, trusted: bool) -> None:
    known = record(edited)
    odd = known.model_copy(update={"inputs": (known.inputs[0].model_copy(update={"path": path}),)})
    if path in ("../in.png", "/proc/kmsg") and trusted:
        return
    with pytest.raises(PictureError, match="does not exist" if trusted else "is not in the folder"):
        recorded_inputs(odd, edited, trusted=trusted)


def test_messages_use_the_name_as_typed(home: Path) -> None:
    Image.new("RGB", (64, 64)).save("in.png")
    (source,) = read_inputs(["in.png"])
    assert (source.name, source.source.path) == ("in.png", str(home / "in.png"))


def test_file_names_that_are_not_utf8(program: Program, home: Path) -> None:
    """Old archives and other systems have such names; Python represents their bytes as lone surrogates."""
    Image.new("RGB", (64, 64)).save("caf\udce9.png")
    outcome = program("edit", "x", "--image", "caf\udce9.png", "-o", "a.png")
    assert (outcome.code, outcome.stdout) == (0, "a.png\n"), outcome.stderr
    assert record(Path("a.png")).inputs[0].path == str(home / "caf\udce9.png")
    assert program("edit", "--from", "a.png", "-o", "b.png").code == 0
    assert Path("b.png").read_bytes() == Path("a.png").read_bytes()


def test_a_model_folder_whose_name_is_not_utf8(program: Program, home: Path) -> None:
    shutil.copytree(home.parent / "checkpoint", "mod\udce8le")
    outcome = program("generate", "x", "--model", "mod\udce8le", "-o", "a.png", "--json")
    assert outcome.code == 0, outcome.stderr
    assert program("generate", "--from", "a.png", "--model", "mod\udce8le", "-o", "b.png").code == 0
    assert Path("b.png").read_bytes() == Path("a.png").read_bytes()
