"""`sensenova convert`: the examples of its help, its output, and what it refuses."""

import json
import os
import re
import resource
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import REPOSITORY, Program


@pytest.mark.slow
def test_the_examples_of_the_help(tmp_path: Path, program: Program, preloaded: Path) -> None:
    """They run as they stand, with the real engine."""
    examples = re.findall(r"^  sensenova (.*)$", program("convert", "--help").stdout, flags=re.MULTILINE)
    assert len(examples) == 2
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SENSENOVA_")}
    environment = {**clean, "PYTHONPATH": str(REPOSITORY), "SENSENOVA_DTYPE": "float32", "SENSENOVA_NUM_STEPS": "1"}
    environment["SENSENOVA_DATA_DIR"] = str(tmp_path / "data")
    printed = []
    for example in examples:
        words = [preloaded, *shlex.split(example)]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[0] == "demo-int8\n" and (tmp_path / printed[1].strip()).stat().st_size > 0
    assert (tmp_path / "demo-int8" / "conversion.json").is_file()


def test_json_and_the_sizes(program: Program, tiny_checkpoint: Path) -> None:
    outcome = program("convert", str(tiny_checkpoint), "a/copy", "--quantization", "int8-all", "--json")
    assert outcome.code == 0
    result = json.loads(outcome.stdout)
    assert result["folder"] == "a/copy" and result["quantization"] == "int8-all"
    assert result["bytes"] == sum(file.stat().st_size for file in Path("a/copy").glob("*.safetensors"))
    assert result["source_bytes"] == sum(file.stat().st_size for file in tiny_checkpoint.glob("*.safetensors"))
    assert (result["files"], result["kept_files"]) == (1, 0)
    about = program("info", "a/copy").stdout.splitlines()
    assert "layers: 3" in about and "quantization: int8-all" in about


def test_a_line_says_how_to_use_the_copy(program: Program, tiny_checkpoint: Path) -> None:
    outcome = program("convert", str(tiny_checkpoint), "copy", "--quantization", "fp8")
    assert (outcome.code, outcome.stdout) == (0, "copy\n")
    assert "use the copy with --quantization fp8" in outcome.stderr
    assert re.search(r"^[1-9]\d* MB became [1-9]\d* MB in ", outcome.stderr, re.MULTILINE)
    assert program("convert", str(tiny_checkpoint), "other", "--quantization", "fp8", "-q").stderr == ""


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--quantization", "int4"], 2, "int4"),
        ([], 2, "a conversion needs the format of the new weights"),
        (["--quantization", "off"], 2, "a conversion needs the format of the new weights"),
    ],
)
def test_other_formats(program: Program, tiny_checkpoint: Path, words: list[str], code: int, message: str) -> None:
    outcome = program("convert", str(tiny_checkpoint), "copy", *words)
    assert (outcome.code, outcome.stdout) == (code, "")
    assert message in outcome.stderr and not Path("copy").exists()


def test_a_model_that_is_not_there(program: Program, home: Path) -> None:
    outcome = program("convert", "./none", "copy", "--quantization", "int8")
    assert (outcome.code, outcome.stdout, list(home.iterdir())) == (3, "", [])


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("elsewhere")])
@pytest.mark.parametrize("name", ["copy", "copy.unfinished"])
def test_what_exists_is_left_alone(program: Program, tiny_checkpoint: Path, make: object, name: str) -> None:
    make(Path(name))  # type: ignore[operator]
    if name == "copy.unfinished" and Path(name).is_dir():
        (Path(name) / "mine").touch()
    outcome = program("convert", str(tiny_checkpoint), "copy", "--quantization", "int8")
    assert outcome.code == 2
    assert f"{name} exists" in outcome.stderr


@pytest.mark.parametrize("place", ["file/copy", "x" * 300, "x" * 300 + "/copy"])
def test_a_place_that_cannot_be(program: Program, tiny_checkpoint: Path, home: Path, place: str) -> None:
    (home / "file").touch()
    outcome = program("convert", str(tiny_checkpoint), place, "--quantization", "int8")
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
def test_a_full_disk(program: Program, tiny_checkpoint: Path) -> None:
    outcome = program("convert", str(tiny_checkpoint), "copy", "--quantization", "int8")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "error: copy cannot be written: " in outcome.stderr
    assert "the same command then continues" in outcome.stderr and not Path("copy").exists()
    assert not list(Path("copy.unfinished").glob("*.safetensors*"))


def test_an_interrupted_conversion_continues(
    program: Program, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.checkpoint import shard_files

    def interrupted(self: object, stream: object) -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shard_files.ShardFile, "write", interrupted)
        outcome = program("convert", str(tiny_checkpoint), "copy", "--quantization", "int8")
    assert outcome.code == 130 and "the same command continues this conversion" in outcome.stderr
    assert not Path("copy").exists()
    assert program("convert", str(tiny_checkpoint), "copy", "--quantization", "int8").code == 0
    assert Path("copy/config.json").is_file() and not Path("copy.unfinished").exists()


def test_a_configured_server_does_not_matter(
    program: Program, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENSENOVA_SERVER", "http://127.0.0.1:9")
    assert program("convert", str(tiny_checkpoint), "copy", "--quantization", "int8").code == 0
