"""LoRAs: merged exactly, removed exactly, and refused with the names of tensors that do not fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import Engine, GenerateRequest, ImageSettings, Notice, Picture
from model.checkpoint import tensor_files
from model.checkpoint.layout import checkpoint_layout
from model.checkpoint.loader import load_checkpoint
from model.checkpoint.lora import AdapterMerger, read_adapters
from model.checkpoint.named_lora import NamedLora, format_loras, parse_loras
from model.errors import CheckpointError
from model.network.configuration import read_config

CPU = torch.device("cpu")
LAYER = "language_model.model.layers.1"
SMALL = ImageSettings(size="64x96", num_steps=2)


def matrices(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the shapes of all projections of both towers, and of one image embedding's kernel as a matrix."""
    layout = checkpoint_layout(read_config(folder))
    named = {
        name.removesuffix(".weight"): target.shape
        for name, target in layout.items()
        if "_proj" in name or name == "vision_model.embeddings.dense_embedding.weight"
    }
    return {name: (shape[0], torch.Size(shape[1:]).numel()) for name, shape in named.items()}


def write_lora(
    file: Path,
    shapes: dict[str, tuple[int, int]],
    *,
    rank: int = 128,
    alpha: float | None = 64.0,
    prefix: str = "",
    seed: int = 0,
    metadata: dict[str, str] | None = None,
) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (rows, columns) in shapes.items():
        tensors[f"{prefix}{name}.lora_down.weight"] = torch.randn(rank, columns, generator=generator) / columns**0.5
        tensors[f"{prefix}{name}.lora_up.weight"] = torch.randn(rows, rank, generator=generator) / rank**0.5
        if alpha is not None:
            tensors[f"{prefix}{name}.alpha"] = torch.tensor(alpha)
    save_file(tensors, file, metadata=metadata)
    return file


def loaded(folder: Path, *loras: NamedLora, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    adapters = read_adapters(loras, read_config(folder))
    return load_checkpoint(folder, CPU, dtype, adapters=adapters).state_dict()


@pytest.mark.parametrize("name", ["u1", "u15", "a3b"])
@pytest.mark.parametrize("prefix", ["", "diffusion_model."])
def test_merging_equals_a_float64_computation(
    name: str,
    prefix: str,
    parity_checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This includes fused projections and experts, and chunks that begin in the middle of a row."""
    monkeypatch.setattr(tensor_files, "CHUNK_BYTES", 4 * 1000)
    folder = parity_checkpoint(name)
    shapes = matrices(folder)
    first = write_lora(tmp_path / "first.safetensors", shapes, prefix=prefix)
    some = dict(list(shapes.items())[::3])
    second = write_lora(tmp_path / "second.safetensors", some, rank=4, alpha=None, seed=1)
    merged = loaded(folder, NamedLora(str(first), 0.7), NamedLora(str(second), -2.0))
    plain = loaded(folder)
    expected = {key: tensor.double() for key, tensor in plain.items()}
    layout = checkpoint_layout(read_config(folder))
    for file, scale in ((first, 0.7 * 64 / 128), (second, -2.0)):
        tensors = load_file(file)
        for layer in shapes if file == first else some:
            name = prefix + layer if file == first else layer
            down, up = (tensors[f"{name}.lora_{part}.weight"].double() for part in ("down", "up"))
            target = layout[f"{layer}.weight"]
            numbers = expected[target.parameter].view(-1)[target.offset : target.offset + target.numel]
            numbers += (scale * (up @ down)).flatten()
    for key, tensor in merged.items():
        assert (tensor.double() - expected[key]).abs().max() < 1e-5 * expected[key].abs().max()
        updated = any(layout[f"{layer}.weight"].parameter == key for layer in shapes)
        assert torch.equal(tensor, plain[key]) is not updated


def picture(engine: Engine, settings: ImageSettings = SMALL) -> bytes:
    events = engine.run(GenerateRequest("a cat", settings))
    return next(event.image.tobytes() for event in events if isinstance(event, Picture))


@pytest.mark.parametrize("quantization", ["off", "fp8-all"])
def test_loras_are_added_and_removed_exactly(tiny_checkpoint: Path, tmp_path: Path, quantization: str) -> None:
    lora = NamedLora(str(write_lora(tmp_path / "style.safetensors", matrices(tiny_checkpoint), rank=8)), 0.5)
    other = NamedLora(str(write_lora(tmp_path / "other.safetensors", matrices(tiny_checkpoint), rank=2, seed=1)))
    engine = Engine.load(tiny_checkpoint, device="cpu", quantization=quantization)
    before = picture(engine)
    engine.use_loras([lora, other])
    assert engine.loras == (lora, other)
    with_both = picture(engine)
    engine.use_loras([lora])
    with_one = picture(engine)
    engine.use_loras([])
    assert picture(engine) == before
    assert len({before, with_one, with_both}) == 3
    direct = Engine.load(tiny_checkpoint, device="cpu", quantization=quantization, lora=str(lora))
    assert picture(direct) == with_one


@pytest.mark.parametrize("quantization", ["off", "fp8-all"])
def test_a_lora_for_a_part_of_a_fused_projection(tiny_checkpoint: Path, tmp_path: Path, quantization: str) -> None:
    shapes = {name: shape for name, shape in matrices(tiny_checkpoint).items() if "q_proj_mot_gen" in name}
    lora = NamedLora(str(write_lora(tmp_path / "q.safetensors", shapes, rank=4)))
    engine = Engine.load(tiny_checkpoint, device="cpu", quantization=quantization)
    before = picture(engine)
    engine.use_loras([lora])
    with_it = picture(engine)
    assert with_it != before
    assert with_it == picture(Engine.load(tiny_checkpoint, device="cpu", quantization=quantization, lora=str(lora)))
    engine.use_loras([])
    assert picture(engine) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [("lora_rank_0", "1 of rank 0"), ("lora_whole_numbers", "2 of its tensors are stored as I8")],
)
def test_a_lora_of_unusable_numbers(name: str, message: str, tiny_checkpoint: Path) -> None:
    file = Path(__file__).parents[2] / "data" / "cases" / f"{name}.safetensors"
    with pytest.raises(CheckpointError, match=message):
        read_adapters([NamedLora(str(file))], read_config(tiny_checkpoint))


def test_a_lora_that_does_not_fit_changes_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    shapes = matrices(tiny_checkpoint)
    good = NamedLora(str(write_lora(tmp_path / "good.safetensors", shapes, rank=2)))
    bad = NamedLora(str(write_lora(tmp_path / "bad.safetensors", {"language_model.model.layers.77.x": (4, 4)}, rank=2)))
    engine = Engine.load(tiny_checkpoint, device="cpu", lora=str(good))
    before = picture(engine)
    with pytest.raises(
        CheckpointError, match=r"1 of layers that the model does not have:\n  language_model.model.layers.77.x"
    ):
        engine.use_loras([bad])
    assert engine.loras == (good,) and picture(engine) == before


def test_an_interrupted_replacement_makes_the_weights_unusable(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = NamedLora(str(write_lora(tmp_path / "style.safetensors", matrices(tiny_checkpoint), rank=2)))
    engine = Engine.load(tiny_checkpoint, device="cpu")
    before = picture(engine)
    count = 0

    def interrupted(self: AdapterMerger, *arguments: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        if count > 3:
            raise KeyboardInterrupt
        return merged(self, *arguments)

    merged = AdapterMerger.merge
    with monkeypatch.context() as patched:
        patched.setattr(AdapterMerger, "merge", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.use_loras([lora])
    with pytest.raises(CheckpointError, match="an earlier change of LoRAs was interrupted"):
        picture(engine)
    engine.use_loras([])
    assert picture(engine) == before


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(f"{LAYER}.self_attn.q_proj.lora_up.weight"), "1 without one of their two matrices:"),
        (lambda t: t.update({"stray.weight": torch.ones(2)}), "1 that do not belong to a LoRA:\n  stray.weight"),
        (
            lambda t: t.update({f"{LAYER}.self_attn.q_proj.lora_up.weight": torch.ones(3, 2)}),
            "1 of another shape:\n  language_model.model.layers.1.self_attn.q_proj: up [3, 2]",
        ),
        (lambda t: [t.pop(key) for key in list(t)] and t.update({"x": torch.ones(1)}), "it has no LoRA tensors"),
    ],
)
def test_a_file_that_fits_in_part_is_refused_with_tensor_names(
    tiny_checkpoint: Path, tmp_path: Path, edit: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    file = write_lora(tmp_path / "lora.safetensors", matrices(tiny_checkpoint), rank=2)
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)
    with pytest.raises(CheckpointError) as caught:
        Engine.load(tiny_checkpoint, device="cpu", lora=str(file))
    assert message in caught.value.what


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.safetensors", "there is no LoRA file missing.safetensors"),
        ("empty", "empty has 0 safetensors files"),
        ("two", "two has 2 safetensors files (a.safetensors, b.safetensors)"),
        ("text.safetensors", "text.safetensors is not a safetensors file"),
    ],
)
def test_other_files_are_refused(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    for each in ("two/a.safetensors", "two/b.safetensors", "text.safetensors"):
        (tmp_path / each).write_text("no tensors")
    with pytest.raises(CheckpointError) as caught:
        Engine.load(tiny_checkpoint, device="cpu", lora=name)
    assert caught.value.what.startswith(message)


def test_a_folder_with_one_file(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    write_lora(tmp_path / "lora" / "weights.safetensors", matrices(tiny_checkpoint), rank=2)
    assert Engine.load(tiny_checkpoint, device="cpu", lora=str(tmp_path / "lora")).loras


@pytest.mark.parametrize(
    "metadata",
    [
        {"num_inference_steps": "8", "guidance_scale": "1.0"},
        {"recommended_settings": json.dumps({"num_steps": 8, "cfg_scale": 1.0})},
    ],
)
def test_recommended_settings_and_a_notice_about_others(
    tiny_checkpoint: Path, tmp_path: Path, metadata: dict[str, str]
) -> None:
    file = write_lora(tmp_path / "fast.safetensors", matrices(tiny_checkpoint), rank=2, metadata=metadata)
    engine = Engine.load(tiny_checkpoint, device="cpu", lora=str(file))
    assert engine.card.recommended.settings["num_steps"] == 8 and engine.card.recommended.settings["cfg_scale"] == 1

    def notices(**settings: object) -> list[str]:
        request = GenerateRequest("a cat", SMALL.model_copy(update=settings))
        return [event.text for event in engine.run(request) if isinstance(event, Notice) and "LoRA" in event.text]

    assert notices(num_steps=8, cfg_scale=1.0) == []
    (text,) = notices(num_steps=2)
    assert text.endswith("is made for num_steps 8, cfg_scale 1.0, not 2, 4.0")
    engine.use_loras([])
    assert "cfg_scale" not in engine.card.recommended.settings and notices(num_steps=2) == []


def test_a_name_may_end_with_a_strength() -> None:
    assert parse_loras("a.safetensors:0.5, owner/name@v1 ,b:c") == (
        NamedLora("a.safetensors", 0.5),
        NamedLora("owner/name@v1"),
        NamedLora("b:c"),
    )
    assert parse_loras(None) == parse_loras("off") == ()
    assert format_loras(parse_loras("owner/name:-0.25, other/name")) == "owner/name:-0.25, other/name"
