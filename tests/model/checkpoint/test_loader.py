"""Loading of checkpoints: tensors are fused and cast, and one message lists all problems."""

import json
import os
import shutil
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoint import loader, tensor_files
from model.checkpoint.file_names import INDEX_FILE
from model.checkpoint.layout import checkpoint_layout
from model.checkpoint.loader import load_checkpoint
from model.checkpoint.random_weights import EIGHT_B, config_fields, write_tiny_checkpoint
from model.errors import CheckpointError
from model.events import LoadProgress
from model.network.configuration import parse_config, read_config
from model.network.sensenova import SenseNovaU1

CPU = torch.device("cpu")
LAYER = "language_model.model.layers.1"


@pytest.fixture
def broken(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, to be damaged."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def load(folder: Path, dtype: torch.dtype = torch.float32, **options: bool) -> SenseNovaU1:
    return load_checkpoint(folder, CPU, dtype, **options)


def weight_file(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(weight_file(folder))
    edit(tensors)
    save_file(tensors, weight_file(folder))


def config(folder: Path, edit: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    fields = json.loads((folder / "config.json").read_text())
    edit(fields)
    (folder / "config.json").write_text(json.dumps(fields))


def test_projections_are_fused_in_order(
    parity_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = parity_checkpoint("a3b")
    monkeypatch.setattr(tensor_files, "CHUNK_BYTES", 4096)  # read tensors in several chunks
    network = load(folder)
    stored = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    attention = network.gen.blocks[1].attention
    expected = torch.cat([stored[f"{LAYER}.self_attn.{part}_proj_mot_gen.weight"] for part in "qkv"])
    assert torch.equal(attention.qkv_proj.weight, expected)
    norms = [stored[f"{LAYER}.self_attn.k_norm{part}_mot_gen.weight"] for part in ("", "_hw")]
    assert torch.equal(attention.k_norm.weight, torch.stack(norms))
    expert = network.und.blocks[1].mlp.gate_up_proj.weight[5]
    assert torch.equal(
        expert, torch.cat([stored[f"{LAYER}.mlp.experts.5.{part}_proj.weight"] for part in ("gate", "up")])
    )
    kernel = stored["vision_model.embeddings.patch_embedding.weight"]
    assert torch.equal(network.und_vision.patch.weight, kernel.flatten(1))


def test_float32_files_load_as_bfloat16(parity_checkpoint: Callable[[str], Path]) -> None:
    folder = parity_checkpoint("u15")
    network = load(folder, torch.bfloat16)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    stored = load_file(folder / "model-00001-of-00002.safetensors")
    name = "language_model.lm_head.weight"
    assert torch.equal(network.lm_head.weight, stored[name].to(torch.bfloat16))


def test_a_single_file_without_an_index(broken: Path) -> None:
    reference = load(broken)
    weight_file(broken).rename(broken / "model.safetensors")
    (broken / INDEX_FILE).unlink()
    for parameter, expected in zip(load(broken).parameters(), reference.parameters(), strict=True):
        assert torch.equal(parameter, expected)


def test_loading_in_inference_mode(tiny_checkpoint: Path) -> None:
    with torch.inference_mode():
        network = load(tiny_checkpoint)
    assert not any(parameter.is_inference() for parameter in network.parameters())


def test_progress_ends_at_the_total(tiny_checkpoint: Path) -> None:
    seen: list[LoadProgress] = []
    load_checkpoint(tiny_checkpoint, CPU, torch.float32, on_progress=seen.append)
    assert seen[-1].done_bytes == seen[-1].total_bytes > 4_000_000


def test_an_error_in_on_progress_ends_loading(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_files, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(loader, "REPORT_BYTES", 4096)
    read = os.preadv

    calls: list[int] = []

    def slowly(*arguments: Any) -> int:
        calls.append(1)
        time.sleep(0.02)
        return read(*arguments)

    monkeypatch.setattr(os, "preadv", slowly)
    seen: list[LoadProgress] = []

    def cancel(progress: LoadProgress) -> None:
        seen.append(progress)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:  # stores the error, and with it the frame that was reading
        load_checkpoint(tiny_checkpoint, CPU, torch.float32, on_progress=cancel)
    assert len(seen) == 1
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("read weights")] == []
    assert len(calls) < 500  # of more than a thousand chunks
    del caught


def test_no_memory_to_read_into(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error, such as one about page-locked memory, is raised unchanged; the engine explains it."""

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    parts = map(tensor_files.TensorPart.whole, tensor_files.stored_tensors(tiny_checkpoint).values())
    sizes = tensor_files.read_chunks(parts, lambda chunk: None)
    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(sizes)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (OSError(5, "Input/output error"), r"\.safetensors cannot be read: Input/output error"),
        (0, r"\.safetensors ends in the middle of "),
    ],
)
def test_a_file_that_fails_while_it_is_read(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, answer: int | OSError, message: str
) -> None:
    def preadv(*_: object) -> int:
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(CheckpointError, match=message):
        load(tiny_checkpoint)


def test_missing_unexpected_and_misshapen_are_listed_together(broken: Path) -> None:
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        for layer in range(3):
            del tensors[f"language_model.model.layers.{layer}.self_attn.q_proj.weight"]
        tensors["language_model.model.norm.weight"] = torch.ones(7)
        tensors["something.else"] = torch.ones(2)

    change(broken, damage)
    with pytest.raises(CheckpointError) as caught:
        load(broken)
    message = caught.value.what
    assert "3 missing:\n  language_model.model.layers.{0-2}.self_attn.q_proj.weight (3)" in message
    assert "1 unexpected:\n  something.else" in message
    assert "language_model.model.norm.weight: is [7], should be [128]" in message


def test_nan_is_found_with_check_weights(broken: Path) -> None:
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors["language_model.model.norm.weight"][3] = torch.nan

    change(broken, damage)
    load(broken)
    with pytest.raises(CheckpointError, match=r"NaN or infinity:\n  language_model\.model\.norm\.weight"):
        load(broken, check_weights=True)


def test_a_truncated_file(broken: Path) -> None:
    whole = weight_file(broken).read_bytes()
    weight_file(broken).write_bytes(whole[:-1000])
    with pytest.raises(CheckpointError, match=rf"is truncated: {len(whole) - 1000:,} of {len(whole):,} bytes"):
        load(broken)


def test_a_tensor_in_two_files(broken: Path) -> None:
    name = "language_model.model.norm.weight"
    save_file({name: torch.zeros(128)}, broken / "other.safetensors")
    index = json.loads((broken / INDEX_FILE).read_text())
    index["weight_map"][name] = "other.safetensors"
    (broken / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=rf"{name} is stored in two files: .*{weight_file(broken).name}"):
        load(broken)


@pytest.mark.parametrize("content", [b"PK\3\4", b"\xff" * 64, b"\x89PNG\r\n\x1a\n0000", b"\x02\0\0\0\0\0\0\0[]"])
def test_a_file_in_another_format(broken: Path, content: bytes) -> None:
    weight_file(broken).write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        load(broken)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b'{"a": [1, 2', "its header is not JSON"),
        (b'{"a": 5}', "lacks the type, the shape or the place of tensor a"),
        (b'{"a": {"dtype": "F32", "shape": 5, "data_offsets": [0, 4]}}', "lacks the type"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}', "lacks the type"),
        (b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', "not whole or negative"),
    ],
)
def test_a_damaged_header(broken: Path, header: bytes, problem: str) -> None:
    """No message shows the words of Python or of a library."""
    weight_file(broken).write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match=problem):
        load(broken)


def test_an_empty_file(broken: Path) -> None:
    weight_file(broken).write_bytes(b"")
    with pytest.raises(CheckpointError, match="its header is incomplete"):
        load(broken)


def test_the_index_names_a_missing_file(broken: Path) -> None:
    name = weight_file(broken).name
    weight_file(broken).unlink()
    with pytest.raises(CheckpointError, match=f"are missing: {name}"):
        load(broken)


@pytest.mark.parametrize("content", ['{"weight_map": 3}', '{"weight_map": {"a": 3}}', "[]", "{"])
def test_damaged_index(broken: Path, content: str) -> None:
    (broken / INDEX_FILE).write_text(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        load(broken)


def test_a_file_without_read_permission(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    (broken / INDEX_FILE).unlink()
    weight_file(broken).rename(broken / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"safetensors cannot be read: Permission denied\ncheck its permissions"):
        tensor_files.stored_tensors(broken)


def test_no_weights(broken: Path) -> None:
    weight_file(broken).unlink()
    (broken / INDEX_FILE).unlink()
    with pytest.raises(CheckpointError, match="has no weights"):
        load(broken)


def test_no_config(broken: Path) -> None:
    (broken / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load(broken)


def test_another_model(broken: Path) -> None:
    config(broken, lambda fields: fields.update(model_type="llama"))
    with pytest.raises(CheckpointError, match="'llama', not 'neo_chat'"):
        load(broken)


@pytest.mark.parametrize("place", ["rope_theta", "rope_theta_hw", "head_dim"])
def test_a_missing_field_is_named(broken: Path, place: str) -> None:
    config(broken, lambda fields: fields["llm_config"].pop(place))
    with pytest.raises(CheckpointError, match=rf"llm_config\.{place} is missing"):
        load(broken)


@pytest.mark.parametrize(
    ("name", "value"), [("concat_time_token_num", 1), ("noise_scale_mode", "fixed"), ("downsample_ratio", 1)]
)
def test_unsupported_configurations_are_refused(broken: Path, name: str, value: object) -> None:
    config(broken, lambda fields: fields.update({name: value}))
    with pytest.raises(CheckpointError, match=f"{name} is"):
        load(broken)


@pytest.mark.parametrize(("convolutional", "parameters"), [(False, 17_552_340_992), (True, 17_532_854_464)])
def test_the_layout_of_the_published_models(convolutional: bool, parameters: int) -> None:
    fields = config_fields(**EIGHT_B, convolutional_head=convolutional)
    layout = checkpoint_layout(parse_config(fields, "8B"))
    assert len(layout) == 1116
    assert sum(target.numel for target in layout.values()) == parameters


def test_missing_layers_are_named_by_number(broken: Path) -> None:
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        for layer in (0, 2):
            del tensors[f"language_model.model.layers.{layer}.self_attn.q_proj.weight"]

    change(broken, damage)
    with pytest.raises(CheckpointError, match=r"layers\.\{0,2\}\.self_attn\.q_proj\.weight \(2\)"):
        load(broken)


def test_a_number_that_is_nan(broken: Path) -> None:
    config(broken, lambda fields: fields["llm_config"].update(rms_norm_eps=float("nan")))
    with pytest.raises(CheckpointError, match="NaN is not a JSON number"):
        load(broken)


def test_null_means_absent(parity_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(parity_checkpoint("a3b"), tmp_path / "a3b"))
    expected = read_config(folder)
    config(folder, lambda fields: fields["llm_config"].update(mlp_only_layers=None, decoder_sparse_step=None))
    assert read_config(folder) == expected


def test_head_dim(broken: Path) -> None:
    config(broken, lambda fields: fields["llm_config"].update(head_dim=36))
    with pytest.raises(CheckpointError, match="head_dim is 36, not a multiple of 8"):
        load(broken)


def test_scaled_positions_are_refused(broken: Path) -> None:
    config(broken, lambda fields: fields["llm_config"].update(rope_scaling={"type": "yarn"}))
    with pytest.raises(CheckpointError, match="rope_scaling"):
        load(broken)


def test_a_new_checkpoint_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.partial").mkdir()
    (tmp_path / "mine.partial" / "thesis.txt").write_text("long")
    write_tiny_checkpoint(tmp_path / "mine")
    with pytest.raises(CheckpointError, match="exists already"):
        write_tiny_checkpoint(tmp_path / "mine")
    assert (tmp_path / "mine.partial" / "thesis.txt").read_text() == "long"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "mine.partial"]
