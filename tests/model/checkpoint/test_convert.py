"""Conversions: a copy that loads as the original does with `quantization`, made again from where it stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from config.errors import SenseNovaError
from model import Answer, AnswerRequest, Engine, GenerateRequest, ImageSettings, Notice, Picture, TextSettings
from model.checkpoint import convert, shard_files
from model.checkpoint.builtin import DEMO_CHECKPOINT
from model.checkpoint.conversion_record import LOCK_FILE, RECORD_FILE, unfinished_folder
from model.checkpoint.convert import convert_checkpoint
from model.checkpoint.file_names import INDEX_FILE
from model.checkpoint.loader import load_checkpoint
from model.checkpoint.quantization import QUANTIZATIONS
from model.engine import LocalEngine
from model.errors import CheckpointError, RequestError
from model.network.rotation import rotation_group
from model.verification.files import check_files
from tests.cli.harness import REPOSITORY
from tests.waiting import until

CPU = torch.device("cpu")
FORMATS = [name for name in QUANTIZATIONS if name != "off"]
SMALL = 2**20
"""Size of weight files, so that a tiny checkpoint has several."""


def weights(folder: Path, quantization: str, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder, CPU, dtype, quantized=QUANTIZATIONS[quantization]).state_dict()


def require_equal(folder: Path, original: Path, quantization: str, dtype: torch.dtype = torch.bfloat16) -> None:
    """Compare the loaded weights of a copy with the original's, bit for bit."""
    found, expected = weights(folder, quantization, dtype), weights(original, quantization, dtype)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8)), name


@pytest.mark.parametrize("quantization", FORMATS)
@pytest.mark.parametrize("name", ["u1", "u15", "a3b"])
def test_a_copy_loads_as_the_original_is_quantized(
    parity_checkpoint: Callable[[str], Path], tmp_path: Path, name: str, quantization: str
) -> None:
    """The sizes of the parity checkpoints include widths that are not whole groups of the rotation."""
    original = parity_checkpoint(name)
    made = convert_checkpoint(original, tmp_path / "copy", quantization, shard_bytes=SMALL)
    assert made.files == len(list(made.folder.glob("*.safetensors")))
    require_equal(made.folder, original, quantization)


@pytest.mark.parametrize("quantization", ["int8", "int8-all"])
def test_float32_models_get_the_same_weights(tmp_path: Path, quantization: str) -> None:
    made = convert_checkpoint(DEMO_CHECKPOINT, tmp_path / "copy", quantization)
    require_equal(made.folder, DEMO_CHECKPOINT, quantization, torch.float32)


def loaded(folder: Path, quantization: str, offload: str = "off") -> LocalEngine:
    dtype = "float32" if quantization.startswith("int8") else "bfloat16"
    return Engine.load(folder, device="cpu", quantization=quantization, dtype=dtype, offload=offload)


def picture(engine: LocalEngine) -> bytes:
    events = engine.run(GenerateRequest("a red circle", ImageSettings(size="64x64", num_steps=2)))
    return next(event.image.tobytes() for event in events if isinstance(event, Picture))


@pytest.mark.parametrize("quantization", FORMATS)
def test_pictures_of_a_copy_have_the_same_bytes(tmp_path: Path, quantization: str) -> None:
    """Also if layers stay in the files until they are used."""
    made = convert_checkpoint(DEMO_CHECKPOINT, tmp_path / "copy", quantization)
    expected = picture(loaded(DEMO_CHECKPOINT, quantization))
    for offload in ("off", "layers"):
        assert picture(loaded(made.folder, quantization, offload)) == expected


def test_a_copy_without_the_setting_says_how_to_keep_eight_bits(tiny_checkpoint: Path, tmp_path: Path) -> None:
    made = convert_checkpoint(tiny_checkpoint, tmp_path / "copy", "int8-all")

    def notices(quantization: str) -> list[str]:
        request = GenerateRequest("a cat", ImageSettings(size="64x64", num_steps=1))
        events = loaded(made.folder, quantization).run(request)
        return [event.text for event in events if isinstance(event, Notice) and "eight bits" in event.text]

    (notice,) = notices("off")
    assert notice.endswith("`quantization=int8-all` keeps them")
    assert notices("int8-all") == []
    (made.folder / RECORD_FILE).write_text('{"quantization": "a trap"}')
    assert notices("off") == []


def test_answers_of_a_copy_are_the_same(tmp_path: Path) -> None:
    made = convert_checkpoint(DEMO_CHECKPOINT, tmp_path / "copy", "int8-all")
    image = Image.new("RGB", (64, 64), "red")
    request = AnswerRequest("What is this?", (image,), settings=TextSettings(max_tokens=12))
    answers = []
    for folder in (made.folder, DEMO_CHECKPOINT):
        events = list(loaded(folder, "int8-all").run(request))
        answers.append([event.text for event in events if isinstance(event, Answer)])
    assert answers[0] == answers[1] and answers[0][0]


def test_the_folder_is_a_checkpoint_in_the_official_layout(tmp_path: Path) -> None:
    made = convert_checkpoint(DEMO_CHECKPOINT, tmp_path / "copy", "int8-all", model="demo", shard_bytes=5 * SMALL)
    names = {path.name for path in made.folder.iterdir()}
    assert {path.name for path in DEMO_CHECKPOINT.iterdir() if path.suffix == ".json"} | {RECORD_FILE} <= names
    assert not [name for name in names if name.endswith((".part", ".lock"))]
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    index = json.loads((made.folder / INDEX_FILE).read_text())["weight_map"]
    stored: dict[str, torch.Tensor] = {}
    for file in sorted(made.folder.glob("*.safetensors")):
        tensors = load_file(file)
        assert all(index[name] == file.name for name in tensors)
        stored |= tensors
    assert stored.keys() == index.keys()
    base = "language_model.model.layers.0.mlp_mot_gen.down_proj"
    weight, scale = stored[f"{base}.weight"], stored[f"{base}.weight_scale"]
    assert (weight.dtype, list(weight.shape)) == (torch.int8, [256, 768])
    assert (scale.dtype, list(scale.shape)) == (torch.float32, [256, 1])
    description = json.loads(bytes(stored[f"{base}.comfy_quant"].tolist()))
    assert description == {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256}
    assert stored["language_model.lm_head.weight"].dtype == torch.int8
    assert stored["language_model.model.embed_tokens.weight"].dtype == torch.bfloat16
    record = json.loads((made.folder / RECORD_FILE).read_text())
    assert (record["quantization"], record["source"]["model"]) == ("int8-all", "demo")
    checksums = json.loads((DEMO_CHECKPOINT / "verification.json").read_text())["checksums"]
    assert {name: record["source"]["files"][name]["sha256"] for name in checksums} == checksums


def test_float8_has_one_scale_a_row(tiny_checkpoint: Path, tmp_path: Path) -> None:
    made = convert_checkpoint(tiny_checkpoint, tmp_path / "copy", "fp8")
    with safe_open(made.folder / "model-00001-of-00001.safetensors", "pt") as file:
        base = "language_model.model.layers.0.self_attn.o_proj_mot_gen"
        weight, scale = file.get_tensor(f"{base}.weight"), file.get_tensor(f"{base}.weight_scale")
    assert weight.dtype == torch.float8_e4m3fn and list(scale.shape) == [weight.shape[0], 1]


def test_a_width_without_whole_groups_says_so(tiny_checkpoint: Path, tmp_path: Path) -> None:
    made = convert_checkpoint(tiny_checkpoint, tmp_path / "copy", "int8")
    described = {}
    for file in made.folder.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            if name.endswith(".comfy_quant"):
                described[name.removesuffix(".comfy_quant")] = json.loads(bytes(tensor.tolist()))
    widths = {name: shape for name, shape in shapes(tiny_checkpoint).items() if name in described}
    assert len(widths) == len(described) > 0
    for name, fields in described.items():
        assert fields.get("convrot_groupsize", 1) == rotation_group(widths[name])


def shapes(folder: Path) -> dict[str, int]:
    """Return the width of every matrix by its name without `.weight`."""
    found = {}
    for file in folder.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            if tensor.dim() == 2:
                found[name.removesuffix(".weight")] = tensor.shape[1]
    return found


# Interruptions


class Stopped(BaseException):
    """Ends a conversion as a signal does, without cleaning up."""


def stop_in(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """End the conversion in the middle of weight file `number`, from 1."""
    write = shard_files.ShardFile.write
    count = 0

    def stopped(self: shard_files.ShardFile, stream: Any) -> Any:
        nonlocal count
        count += 1
        for step, nbytes in enumerate(write(self, stream)):
            if count == number and step == 1:
                raise Stopped
            yield nbytes

    monkeypatch.setattr(shard_files.ShardFile, "write", stopped)


def test_a_conversion_continues_where_it_stopped(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = convert_checkpoint(tiny_checkpoint, tmp_path / "whole", "int8-all", shard_bytes=SMALL // 2)
    copy = tmp_path / "copy"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_in(patch, 3)
        convert_checkpoint(tiny_checkpoint, copy, "int8-all", shard_bytes=SMALL // 2)
    assert not copy.exists()
    done = sorted(unfinished_folder(copy).glob("*.safetensors"))
    assert len(done) == 2 and not list(unfinished_folder(copy).glob("*.part"))
    times = [path.stat().st_mtime_ns for path in done]
    made = convert_checkpoint(tiny_checkpoint, copy, "int8-all", shard_bytes=SMALL // 2)
    assert made.kept_files == 2 and not unfinished_folder(copy).exists()
    assert [(copy / path.name).stat().st_mtime_ns for path in done] == times
    for path in whole.folder.glob("*.safetensors"):
        assert (copy / path.name).read_bytes() == path.read_bytes()


def test_a_damaged_finished_file_is_made_again(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_in(patch, 3)
        convert_checkpoint(tiny_checkpoint, copy, "int8", shard_bytes=SMALL)
    first, second = sorted(unfinished_folder(copy).glob("*.safetensors"))
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    second.write_bytes(second.read_bytes()[:-10])
    made = convert_checkpoint(tiny_checkpoint, copy, "int8", shard_bytes=SMALL)
    assert made.kept_files == 0
    require_equal(copy, tiny_checkpoint, "int8")


def test_a_file_without_a_record_is_not_taken_for_whole(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after SIGKILL between the renaming of a file and the record."""
    copy = tmp_path / "copy"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_in(patch, 2)
        convert_checkpoint(tiny_checkpoint, copy, "int8", shard_bytes=SMALL)
    work = unfinished_folder(copy)
    (work / "model-00002-of-00009.safetensors").write_bytes(b"half")
    (work / "model-00002-of-00003.safetensors.part").write_bytes(b"half")
    assert convert_checkpoint(tiny_checkpoint, copy, "int8", shard_bytes=SMALL).kept_files == 1
    require_equal(copy, tiny_checkpoint, "int8")
    assert not list(copy.glob("*.part")) and not (copy / "model-00002-of-00009.safetensors").exists()


def test_an_end_before_the_last_renaming(tiny_checkpoint: Path, tmp_path: Path) -> None:
    made = convert_checkpoint(tiny_checkpoint, tmp_path / "copy", "int8", shard_bytes=SMALL)
    made.folder.rename(unfinished_folder(made.folder))
    again = convert_checkpoint(tiny_checkpoint, tmp_path / "copy", "int8", shard_bytes=SMALL)
    assert again.kept_files == again.files
    require_equal(again.folder, tiny_checkpoint, "int8")


SCRIPT = """
import json, sys, time
from pathlib import Path
from model.checkpoint import convert, shard_files
write = shard_files.ShardFile.write
record, number = Path(sys.argv[3]), int(sys.argv[4])
def held(self, stream):
    for nbytes in write(self, stream):
        while record.exists() and len(json.loads(record.read_text())["files"]) >= number:
            time.sleep(0.01)  # until this process is killed
        yield nbytes
shard_files.ShardFile.write = held
print("ready", flush=True)
convert.convert_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), "int8", shard_bytes=2**19)
"""


def read_done(record: Path) -> dict[str, str]:
    """Return the weight files that a record names."""
    done: dict[str, str] = json.loads(record.read_text())["files"]
    return done


@pytest.mark.slow
def test_killed_processes_leave_only_work_that_continues(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for number, stop in enumerate((signal.SIGKILL, signal.SIGINT), start=1):
        record = unfinished_folder(copy) / RECORD_FILE
        words = [sys.executable, "-c", SCRIPT, str(tiny_checkpoint), str(copy), str(record), str(number)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            until(lambda: record.exists() and len(read_done(record)) >= number)  # noqa: B023
            process.send_signal(stop)
        assert process.returncode != 0 and not copy.exists()
    made = convert_checkpoint(tiny_checkpoint, copy, "int8", shard_bytes=2**19)
    assert made.kept_files >= 2
    require_equal(copy, tiny_checkpoint, "int8")


# What is refused


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "mine.txt").write_text("mine")


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere"), make_folder])
@pytest.mark.parametrize("unfinished", [False, True])
def test_what_exists_is_left_alone(
    tiny_checkpoint: Path, tmp_path: Path, make: Callable[[Path], object], unfinished: bool
) -> None:
    copy = tmp_path / "copy"
    place = unfinished_folder(copy) if unfinished else copy
    make(place)
    if unfinished and place.is_dir() and not list(place.iterdir()):
        assert convert_checkpoint(tiny_checkpoint, copy, "int8").folder == copy  # ended before its first record
        return
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RequestError, match=r"copy exists already|is not the unfinished work of a conversion"):
        convert_checkpoint(tiny_checkpoint, copy, "int8")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_finished_conversion_is_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = convert_checkpoint(tiny_checkpoint, tmp_path / "copy", "int8-all").folder
    with pytest.raises(RequestError, match="copy is a finished conversion to int8-all") as caught:
        convert_checkpoint(tiny_checkpoint, copy, "int8-all")
    assert caught.value.hint == f"use it: `model={copy}` with `quantization=int8-all`"


def test_the_checksums_of_a_copy_are_verified(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = convert_checkpoint(tiny_checkpoint, tmp_path / "copy", "fp8").folder
    findings = {each.name: each for each in check_files(copy)}
    assert findings["checksums"].status == "passed"
    file = next(copy.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    findings = {each.name: each for each in check_files(copy)}
    assert findings["checksums"].status == "failed" and file.name in findings["checksums"].detail


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"source": {"files": {}}, "files": {"a": 3}}', '{"source": {"files": {"a": 1}}}']
)
def test_a_damaged_record_is_not_ours(tiny_checkpoint: Path, tmp_path: Path, content: str) -> None:
    work = unfinished_folder(tmp_path / "copy")
    work.mkdir()
    (work / RECORD_FILE).write_text(content)
    with pytest.raises(RequestError, match="is not the unfinished work of a conversion"):
        convert_checkpoint(tiny_checkpoint, tmp_path / "copy", "int8")


@pytest.mark.parametrize("name", ["conversion.json.part", "config.json", "model-00001-of-00001.safetensors.part"])
def test_links_in_unfinished_work_are_not_followed(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A stranger's folder could lead a write to a file of the user."""
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_in(patch, 2)
        convert_checkpoint(tiny_checkpoint, tmp_path / "copy", "int8", shard_bytes=SMALL)
    (tmp_path / "mine").write_text("mine")
    (unfinished_folder(tmp_path / "copy") / name).symlink_to("../mine")
    with pytest.raises(RequestError, match="is not the unfinished work of a conversion"):
        convert_checkpoint(tiny_checkpoint, tmp_path / "copy", "int8", shard_bytes=SMALL)
    assert (tmp_path / "mine").read_text() == "mine"


def test_unfinished_work_of_another_format_or_source(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tmp_path / "original"
    shutil.copytree(tiny_checkpoint, original)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_in(patch, 2)
        convert_checkpoint(original, tmp_path / "copy", "int8", shard_bytes=SMALL)
    with pytest.raises(RequestError, match="unfinished conversion of another kind: int8 of original"):
        convert_checkpoint(original, tmp_path / "copy", "fp8", shard_bytes=SMALL)
    file = next(original.glob("*.safetensors"))
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors[name] = tensors[name] + 1
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(RequestError, match="has changed since the conversion"):
        convert_checkpoint(original, tmp_path / "copy", "int8", shard_bytes=SMALL)


@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_a_quantized_source_is_refused(tiny_checkpoint: Path, tmp_path: Path, quantization: str) -> None:
    made = convert_checkpoint(tiny_checkpoint, tmp_path / "copy", quantization)
    with pytest.raises(RequestError, match=rf"quantized already \({quantization}\)"):
        convert_checkpoint(made.folder, tmp_path / "again", "int8")
    assert not (tmp_path / "again").exists() and not unfinished_folder(tmp_path / "again").exists()


def test_two_processes_do_not_share_a_folder(tiny_checkpoint: Path, tmp_path: Path) -> None:
    work = unfinished_folder(tmp_path / "copy")
    work.mkdir()
    with FileLock(work / LOCK_FILE), pytest.raises(RequestError, match="another process converts into"):
        convert_checkpoint(tiny_checkpoint, tmp_path / "copy", "int8")
    convert_checkpoint(tiny_checkpoint, tmp_path / "copy", "int8")


def test_numbers_that_cannot_be_quantized(tiny_checkpoint: Path, tmp_path: Path) -> None:
    original = tmp_path / "original"
    shutil.copytree(tiny_checkpoint, original)
    for file in original.glob("*.safetensors"):
        tensors = load_file(file)
        for name in tensors:
            if name.endswith("layers.1.self_attn.q_proj_mot_gen.weight"):
                tensors[name][3, 5] = torch.nan
        save_file(tensors, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn\.q_proj_mot_gen\.weight contains NaN"):
        convert_checkpoint(original, tmp_path / "copy", "int8")
    assert not (tmp_path / "copy").exists()


def test_a_disk_without_room_is_found_before_writing(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(SenseNovaError, match=r"needs 4 MB more, and 1 kB are free on its disk"):
        convert_checkpoint(tiny_checkpoint, tmp_path / "copy", "int8")
    assert not list(unfinished_folder(tmp_path / "copy").glob("*.safetensors*"))


def test_a_missing_source(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        convert_checkpoint(tmp_path / "none", tmp_path / "copy", "int8")
    assert list(tmp_path.iterdir()) == []


def test_verification_of_the_copy(tmp_path: Path) -> None:
    made = convert_checkpoint(DEMO_CHECKPOINT, tmp_path / "copy", "int8", shard_bytes=5 * SMALL)
    content = json.loads((made.folder / "verification.json").read_text())
    assert {name: sha256 for name, sha256 in content["checksums"].items() if name.endswith(".safetensors")} == (
        json.loads((made.folder / RECORD_FILE).read_text())["files"]
    )
    assert not any("tolerance_in_dtype" in each for each in content["pictures"])
    assert not (convert_checkpoint(DEMO_CHECKPOINT, tmp_path / "eight", "fp8").folder / "verification.json").exists()
