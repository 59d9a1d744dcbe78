"""`sensenova tiny-checkpoint`: the whole folder, or a message and nothing at all."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import Program


def test_a_checkpoint_that_says_what_it_is(program: Program, home: Path) -> None:
    before = os.umask(0o022)
    try:
        outcome = program("tiny-checkpoint", "new/tiny")
    finally:
        os.umask(before)
    assert (outcome.code, outcome.stdout) == (0, "new/tiny\n")
    assert {"config.json", "recommended_settings.json", "tokenizer.json"} <= {
        p.name for p in Path("new/tiny").iterdir()
    }
    assert [path.name for path in Path("new").iterdir()] == ["tiny"]
    assert {path.stat().st_mode & 0o777 for path in Path("new/tiny").iterdir()} == {0o644}
    assert "layers: 3" in program("info", "new/tiny").stdout


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("elsewhere")])
def test_what_exists_is_left_alone(program: Program, make: object) -> None:
    make(Path("tiny"))  # type: ignore[operator]
    outcome = program("tiny-checkpoint", "tiny")
    assert outcome.code == 2
    assert "tiny exists already" in outcome.stderr


@pytest.mark.parametrize("place", ["file/tiny", "x" * 300, "x" * 300 + "/tiny"])
def test_a_place_that_cannot_be(program: Program, home: Path, place: str) -> None:
    (home / "file").touch()
    outcome = program("tiny-checkpoint", place)
    assert (outcome.code, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith(f"error: {place} cannot be written: ")
    assert [path.name for path in home.iterdir()] == ["file"]


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files end at a megabyte, as on a disk with no more room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk(program: Program, home: Path) -> None:
    outcome = program("tiny-checkpoint", "new/deep/tiny")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith("error: new/deep/tiny cannot be written: ")
    assert "unexpected" not in outcome.stderr
    assert list(home.iterdir()) == []
