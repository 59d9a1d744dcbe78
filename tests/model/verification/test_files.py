"""Checks of a checkpoint's files."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.verification.files import FileFinding, check_files, hub_checksum

WEIGHTS = "model-00001-of-00001.safetensors"
CHECKS = ["configuration", "tensors", "tokenizer", "checksums", "values"]


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def findings(folder: Path, **configuration: Any) -> dict[str, FileFinding]:
    found = {finding.name: finding for finding in check_files(folder, configuration)}
    assert list(found) == CHECKS
    return found


def failed(found: dict[str, FileFinding]) -> list[str]:
    return [name for name, finding in found.items() if finding.status == "failed"]


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] = dict.fromkeys(tensors, WEIGHTS)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


NORM = "language_model.model.norm.weight"


def test_a_whole_checkpoint(folder: Path) -> None:
    found = findings(folder)
    assert failed(found) == []
    assert found["checksums"].status == "skipped"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(NORM), f"1 missing:\n  {NORM}"),
        (lambda tensors: tensors.update(extra=torch.ones(1)), "1 unexpected:\n  extra"),
        (lambda tensors: tensors.update({NORM: torch.ones(3)}), f"{NORM}: is [3], should be [128]"),
        (lambda tensors: tensors.update({NORM: torch.ones(128, dtype=torch.int64)}), "is stored as I64"),
    ],
)
def test_wrong_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str) -> None:
    change_weights(folder, change)
    found = findings(folder)
    assert failed(found) == ["tensors"]
    assert message in found["tensors"].detail


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(folder: Path, value: float) -> None:
    change_weights(folder, lambda tensors: tensors[NORM].__setitem__(5, value))
    found = findings(folder)
    assert failed(found) == ["values"]
    assert NORM in found["values"].detail


@pytest.mark.parametrize(("change", "message"), [(b"", "is truncated"), (b"more", "and its header describes")])
def test_a_file_of_a_wrong_size(folder: Path, change: bytes, message: str) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data + change if change else data[:-1])
    found = findings(folder)
    assert "tensors" in failed(found)
    assert message in found["tensors"].detail


def test_a_missing_tokenizer_and_a_damaged_configuration(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "config.json").write_text("{}")
    found = findings(folder)
    assert failed(found) == ["configuration", "tokenizer"]
    assert found["tensors"].status == "skipped"
    assert found["values"].status == "passed", "the weights are checked all the same"


def test_expected_values_of_the_configuration(folder: Path) -> None:
    expected = {"noise_scale_max_value": 8.0, "llm_config.rope_theta": 5e6, "llm_config.absent.deep": True}
    found = findings(folder, **expected)
    assert found["configuration"].detail.splitlines() == [
        "config.json: noise_scale_max_value is 16.0, and should be 8.0",
        "config.json: llm_config.absent.deep is null, and should be true",
    ]


def in_hub_cache(folder: Path) -> Path:
    """Move a checkpoint into a Hub cache: blobs are named by their checksum, and snapshots link to them."""
    snapshot, blobs = folder.parent / "models--a--b" / "snapshots" / "1234", folder.parent / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in folder.iterdir():
        data = file.read_bytes()
        large = file.suffix == ".safetensors"
        digest = hashlib.sha256(data) if large else hashlib.sha1(b"blob %d\0" % len(data) + data)
        (blobs / digest.hexdigest()).write_bytes(data)
        (snapshot / file.name).symlink_to(Path("../../blobs") / digest.hexdigest())
    return snapshot


def test_checksums_of_the_hub_cache(folder: Path) -> None:
    snapshot = in_hub_cache(folder)
    found = findings(snapshot)
    assert failed(found) == []
    assert found["checksums"].detail == "6 of 6 files match"
    blob = (snapshot / WEIGHTS).resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    (snapshot / "own.json").write_text("{}")
    found = findings(snapshot)
    assert failed(found) == ["checksums"]
    assert f"{WEIGHTS} has the checksum" in found["checksums"].detail
    assert blob.name in found["checksums"].detail


def test_checksums_of_a_download_into_a_folder(folder: Path) -> None:
    notes = folder / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (notes / f"{WEIGHTS}.metadata").write_text(f"commit\n{digest}\n1700000000.0\n")
    (notes / "config.json.metadata").write_text("garbage")
    assert hub_checksum(folder / WEIGHTS) == digest
    assert hub_checksum(folder / "config.json") is None
    assert findings(folder)["checksums"].detail == "1 of 6 files match; the others have no known checksum"
    (notes / f"{WEIGHTS}.metadata").write_text(f"commit\n{'0' * 64}\n1700000000.0\n")
    assert failed(findings(folder)) == ["checksums"]


def test_given_checksums(folder: Path) -> None:
    right = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (found,) = [each for each in check_files(folder, checksums={WEIGHTS: right}) if each.name == "checksums"]
    assert (found.status, found.detail) == ("passed", "1 of 6 files match; the others have no known checksum")
    change_weights(folder, lambda tensors: tensors[NORM].mul_(1.05))
    (found,) = [each for each in check_files(folder, checksums={WEIGHTS: right}) if each.name == "checksums"]
    assert found.status == "failed" and f"and should have {right}" in found.detail
    (found,) = [each for each in check_files(folder, checksums={"absent": right}) if each.name == "checksums"]
    assert found.detail == "absent cannot be read: No such file or directory"


def test_a_checksum_of_a_pipe_is_not_read(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    found = list(check_files(folder, checksums={"pipe": "0" * 64}))
    assert [each.detail for each in found if each.name == "checksums"] == ["pipe is not a regular file"]


def test_long_values_of_the_configuration_are_shortened(folder: Path) -> None:
    (found,) = [each for each in check_files(folder, {"llm_config": 1}) if each.name == "configuration"]
    assert found.detail.startswith('config.json: llm_config is {"model_type": ') and len(found.detail) < 200


def test_progress_reaches_the_end(folder: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    for _ in check_files(in_hub_cache(folder), on_progress=lambda *call: calls.append(call)):
        pass
    for name in ("checksums", "values"):
        assert [done == total for check, done, total in calls if check == name][-1]
