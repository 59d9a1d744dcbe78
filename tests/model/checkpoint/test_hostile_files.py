"""Checkpoints from strangers: sizes, names and numbers are checked before anything is built or opened."""

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from config.recommended import RecommendationError, read_recommended
from model.checkpoint.tensor_files import stored_tensors
from model.errors import CheckpointError
from model.network.configuration import read_config


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "theirs"))


def change(folder: Path, **values: Any) -> None:
    fields = json.loads((folder / "config.json").read_text())
    fields["llm_config"] |= values
    (folder / "config.json").write_text(json.dumps(fields))


@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads", "head_dim"])
@pytest.mark.parametrize("value", [10**9, 10**400, 1e300, -1, 0, 2.5, True, "9", [1], None])
def test_sizes_out_of_bounds(folder: Path, name: str, value: Any) -> None:
    change(folder, **{name: value})
    with pytest.raises(CheckpointError, match=f"llm_config.{name}") as raised:
        read_config(folder)
    assert len(raised.value.what) < 500


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "1" * 6000, '{"a": 1e400}', '{"a": NaN}', "\xff", "", '"text"', '{"a": ' + "9" * 6000 + "}"]
)
@pytest.mark.parametrize("name", ["config.json", "recommended_settings.json", "model.safetensors.index.json"])
def test_json_that_cannot_be_read(folder: Path, name: str, text: str) -> None:
    (folder / name).write_bytes(text.encode("latin-1"))
    with pytest.raises((CheckpointError, RecommendationError)) as raised:
        read_config(folder)
        read_recommended(folder)
        stored_tensors(folder)
    assert len(raised.value.what) < 1000


@pytest.mark.parametrize("name", ["config.json", "recommended_settings.json", "model.safetensors.index.json"])
def test_a_pipe_in_place_of_a_file(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises((CheckpointError, RecommendationError)):
        read_config(folder)
        read_recommended(folder)
        stored_tensors(folder)


@pytest.mark.parametrize(
    "shard", ["../secret.safetensors", "/etc/passwd", "a/../b", "..", ".", "", "x" * 5000, "a\\b", "a\0b", 7, None]
)
def test_an_index_that_names_other_places(folder: Path, shard: Any) -> None:
    shutil.copy(next(folder.glob("*.safetensors")), folder.parent / "secret.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CheckpointError, match="weight_map of tensors and files in this folder"):
        stored_tensors(folder)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [10**400], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
        {"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}},
        {"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}},
        {"a": [1]},
        [1],
        7,
    ],
)
def test_odd_headers_of_weights(folder: Path, header: Any) -> None:
    (folder / "model.safetensors.index.json").unlink()
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        stored_tensors(folder)


def test_a_header_that_is_too_long(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    file = folder / "model.safetensors"
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", 2**33) + b"{")
        stream.truncate(2**34)  # a sparse file
    with pytest.raises(CheckpointError, match="its header has"):
        stored_tensors(folder)
