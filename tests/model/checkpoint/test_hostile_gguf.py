"""GGUF files from strangers: a damaged, wrong or dishonest header is one error with a message."""

import random
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint.gguf_header import read_gguf
from model.checkpoint.tensor_files import stored_tensors
from model.errors import CheckpointError

NAME = "language_model.model.norm.weight"
TEXT, LIST = 8, 9


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def prop(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str | bytes = NAME, shape: Sequence[int] = (64,), number: int = 0, start: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, number, start)


def write(
    file: Path,
    tensors: Sequence[bytes] = (tensor(),),
    properties: Sequence[bytes] = (),
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    data: int = 256,
    magic: bytes = b"GGUF",
    architecture: str = "wan",
) -> Path:
    properties = [prop("general.architecture", TEXT, text(architecture)), *properties]
    count, kv = counts or (len(tensors), len(properties))
    content = magic + struct.pack("<IQQ", version, count, kv) + b"".join((*properties, *tensors))
    content += bytes(-len(content) % 32) + bytes(data)
    file.write_bytes(content)
    return file


def refused(file: Path, *words: str) -> str:
    with pytest.raises(CheckpointError) as raised:
        stored_tensors(file.parent, file)
    message = raised.value.what
    assert message.startswith(str(file)) and len(message) < 600 and message.isprintable()
    assert raised.value.hint
    for word in words:
        assert word in message, message
    return message


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "theirs.gguf"


@pytest.mark.parametrize("version", [2, 3])
def test_a_good_file(file: Path, version: int) -> None:
    (found,) = stored_tensors(file.parent, write(file, version=version)).values()
    assert (found.name, found.shape, found.stop - found.start) == (NAME, (64,), 256)
    assert found.stop == file.stat().st_size


def test_sides_are_reversed_and_alignment_is_kept(file: Path) -> None:
    parts = [tensor("a." + NAME, (32, 4)), tensor(shape=(32,), start=1024)]
    write(file, parts, [prop("general.alignment", 4, struct.pack("<I", 1024))], data=4096)
    first, second = read_gguf(file).tensors
    assert first.shape == (4, 32) and first.start % 1024 == 0 and second.start == first.start + 1024


@pytest.mark.parametrize("length", range(0, 200, 3))
def test_a_truncated_file(file: Path, length: int) -> None:
    whole = write(file).read_bytes()
    file.write_bytes(whole[: min(length, len(whole) - 1)])
    if length >= 4:
        refused(file)


def test_missing_data(file: Path) -> None:
    write(file, data=100)
    refused(file, "is truncated", f"{file.stat().st_size:,} of")


@pytest.mark.parametrize("counts", [(2**63, 1), (1, 2**63), (2**32, 1), (1, 100_001), (5, 1), (1, 5)])
def test_counts_that_are_too_large(file: Path, counts: tuple[int, int]) -> None:
    write(file, counts=counts)
    refused(file)


@pytest.mark.parametrize(
    "value",
    [
        prop("x", TEXT, struct.pack("<Q", 2**62)),
        prop("x", TEXT, text(b"\xff\xfe")),
        prop("x", LIST, struct.pack("<IQ", 4, 2**61)),
        prop("x", LIST, struct.pack("<IQ", TEXT, 2**61)),
        prop("x", LIST, struct.pack("<IQ", TEXT, 900_000)),
        prop("x", LIST, struct.pack("<IQ", LIST, 1) + struct.pack("<IQ", LIST, 1)),
        prop("x", 77, b"0000"),
        prop("general.architecture", TEXT, text("again")),
        prop("general.alignment", 4, struct.pack("<I", 0)),
        prop("general.alignment", 4, struct.pack("<I", 33)),
        prop("general.alignment", 4, struct.pack("<I", 2**31)),
        prop("general.alignment", TEXT, text("32")),
        prop("general.alignment", 6, struct.pack("<f", 32.0)),
    ],
)
def test_odd_properties(file: Path, value: bytes) -> None:
    refused(write(file, properties=[value]), "is not a readable GGUF file")


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        (tensor(start=2**63), "truncated"),
        (tensor(start=2**62 + 32), "truncated"),
        (tensor(start=8), "multiple of 32"),
        (tensor(shape=()), "shape"),
        (tensor(shape=(0,)), "shape"),
        (tensor(shape=(2**63,)), "shape"),
        (tensor(shape=(2**40, 2**40, 2**40)), "truncated"),
        (tensor(shape=(1,) * 9), "sides"),
        (tensor(shape=(33,), number=8), "blocks of 32"),
        (tensor(shape=(128,), number=14), "blocks of 256"),
        (tensor(number=2), "stored as Q4_0, which is not read"),
        (tensor(number=23), "stored as IQ4_XS, which is not read"),
        (tensor(number=999), "stored as format 999, which is not read"),
        (tensor(b"\xff"), "UTF-8"),
    ],
)
def test_odd_tensors(file: Path, entry: bytes, word: str) -> None:
    refused(write(file, [tensor("vision_model.x"), entry]), word)


@pytest.mark.parametrize("other", [NAME, f"diffusion_model.{NAME}", f"model.diffusion_model.{NAME}"])
def test_a_tensor_that_is_there_twice(file: Path, other: str) -> None:
    refused(write(file, [tensor(), tensor(other)]), "has two tensors")


@pytest.mark.parametrize(
    "shape", [struct.pack("<IQ2i", 5, 2, 8, 9), struct.pack("<IQ2i", 5, 2, -8, -8), struct.pack("<IQf", 6, 1, 64.0)]
)
def test_an_original_shape_that_does_not_fit(file: Path, shape: bytes) -> None:
    refused(write(file, properties=[prop(f"comfy.gguf.orig_shape.{NAME}", LIST, shape)]), "cannot have the shape")


def test_an_original_shape(file: Path) -> None:
    shape = struct.pack("<IQ2i", 5, 2, 4, 16)
    write(file, properties=[prop(f"comfy.gguf.orig_shape.{NAME}", LIST, shape)])
    assert read_gguf(file).tensors[0].shape == (4, 16)


@pytest.mark.parametrize(("version", "word"), [(1, "version 1"), (4, "version 4"), (0x03000000, "big-endian")])
def test_other_versions(file: Path, version: int, word: str) -> None:
    refused(write(file, version=version), word)


def test_the_text_only_files_of_llama_cpp(file: Path) -> None:
    entries = [tensor("token_embd.weight"), tensor("blk.0.attn_q.weight")]
    write(file, entries, architecture="sensenova_u1")
    refused(file, "holds the reading half of the model alone")


@pytest.mark.parametrize("architecture", ["qwen3", "flux", "\x1b[2J", "x" * 5000])
def test_another_model(file: Path, architecture: str) -> None:
    write(file, [tensor("blk.0.attn_q.weight")], architecture=architecture)
    refused(file, "is of another model", "blk.0.attn_q.weight")


def test_random_changes_are_one_error_or_a_file(file: Path) -> None:
    """No change of a few bytes causes another error."""
    entries = [tensor(f"language_model.{index}", (64, 4), 0, 1024 * index) for index in range(4)]
    whole = write(file, entries, [prop("x", LIST, struct.pack("<IQ3I", 4, 3, 1, 2, 3))], data=4096).read_bytes()
    header = whole.index(b"language_model.3") + 60
    source = random.Random(27)
    outcomes: dict[Any, int] = {}
    for _ in range(600):
        changed = bytearray(whole)
        for _ in range(source.randint(1, 4)):
            changed[source.randrange(4, header)] = source.choice([0, 1, 255, 128, source.randrange(256)])
        file.write_bytes(changed)
        try:
            read_gguf(file)
            outcome = "read"
        except CheckpointError:
            outcome = "refused"
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert min(outcomes.values()) > 50
