"""LoRAs with the names of other programs: PEFT, kohya's scripts and diffusers; their scaling; what is refused."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from model.checkpoint import lora_files
from model.checkpoint.layout import checkpoint_layout
from model.checkpoint.loader import load_checkpoint
from model.checkpoint.lora import read_adapters
from model.checkpoint.named_lora import NamedLora
from model.checkpoint.tensor_files import stored_tensors
from model.errors import CheckpointError
from model.network.configuration import read_config

CPU = torch.device("cpu")
LAYERS = (
    "language_model.model.layers.1.self_attn.k_proj_mot_gen",
    "language_model.model.layers.0.mlp.down_proj",
    "language_model.model.layers.1.mlp_mot_gen.gate_proj",
)
RANK = 4


def underscored(layer: str) -> str:
    return layer.replace(".", "_")


SPELLINGS = {
    "official": ("{}.lora_down.weight", "{}.lora_up.weight", str),
    "comfy": ("diffusion_model.{}.lora_A.weight", "diffusion_model.{}.lora_B.weight", str),
    "peft": ("base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight", str),
    "peft without its prefix": ("{}.lora_A.weight", "{}.lora_B.weight", str),
    "peft with an adapter's name": ("base_model.model.{}.lora_A.default.weight", "{}.lora_B.default.weight", str),
    "diffusers": ("transformer.{}.lora_A.weight", "transformer.{}.lora_B.weight", str),
    "kohya": ("lora_unet_{}.lora_down.weight", "lora_unet_{}.lora_up.weight", underscored),
    "kohya, text": ("lora_te_{}.lora_down.weight", "lora_te_{}.lora_up.weight", underscored),
}
ROOTS = ("", "language_model.", "language_model.model.")


def parts(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the matrices down and up of each layer."""
    generator = torch.Generator().manual_seed(0)
    layout = checkpoint_layout(read_config(folder))
    found = {}
    for layer in LAYERS:
        rows, columns = layout[f"{layer}.weight"].shape
        down, up = torch.randn(RANK, columns, generator=generator), torch.randn(rows, RANK, generator=generator)
        found[layer] = down, up
    return found


def write(file: Path, folder: Path, spelling: str, root: str = "", alpha: float | None = None, **metadata: str) -> Path:
    down_name, up_name, spell = SPELLINGS[spelling]
    tensors = {}
    for layer, (down, up) in parts(folder).items():
        name = spell(layer.removeprefix(root))
        tensors[down_name.format(name)], tensors[up_name.format(name)] = down, up
        if alpha is not None:
            tensors[down_name.format(name).removesuffix(".lora_down.weight") + ".alpha"] = torch.tensor(alpha)
    file.parent.mkdir(exist_ok=True)
    save_file(tensors, file, metadata=metadata)
    return file


def require_merged(folder: Path, file: Path, factor: float | dict[str, float]) -> None:
    """Compare the loaded weights with W + factor · up · down, computed here from the stored tensors."""
    config = read_config(folder)
    merged = load_checkpoint(folder, CPU, torch.float32, adapters=read_adapters([NamedLora(str(file))], config))
    state, stored, layout = merged.state_dict(), stored_tensors(folder), checkpoint_layout(config)
    for layer, (down, up) in parts(folder).items():
        tensor, target = stored[f"{layer}.weight"], layout[f"{layer}.weight"]
        with tensor.file.open("rb") as file_with_weights:
            file_with_weights.seek(tensor.start)
            data = bytearray(file_with_weights.read(tensor.stop - tensor.start))
        weight = torch.frombuffer(data, dtype=tensor.dtype).view(tensor.shape).double()
        scale = factor if isinstance(factor, float) else factor[layer]
        expected = weight + scale * (up.double() @ down.double())
        numbers = state[target.parameter].flatten()[target.offset : target.offset + target.numel].view(target.shape)
        assert torch.allclose(numbers.double(), expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(numbers.double(), weight, atol=1e-2)


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_layer_updates_it(tiny_checkpoint: Path, tmp_path: Path, spelling: str, root: str) -> None:
    file = write(tmp_path / "lora" / "style.safetensors", tiny_checkpoint, spelling, root)
    require_merged(tiny_checkpoint, file, 1.0)


@pytest.mark.parametrize("spelling", ["official", "kohya"])
def test_alpha_is_divided_by_the_rank(tiny_checkpoint: Path, tmp_path: Path, spelling: str) -> None:
    file = write(tmp_path / "style.safetensors", tiny_checkpoint, spelling, alpha=2.0)
    require_merged(tiny_checkpoint, file, 2.0 / RANK)


def test_alpha_of_peft_stands_beside_the_file(tiny_checkpoint: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "lora" / "adapter_model.safetensors", tiny_checkpoint, "peft")
    config: dict[str, Any] = {"r": RANK, "lora_alpha": 8, "alpha_pattern": {"down_proj": 2}, "use_dora": False}
    (file.parent / "adapter_config.json").write_text(json.dumps(config))
    require_merged(tiny_checkpoint, file, {layer: (2 if "down" in layer else 8) / RANK for layer in LAYERS})
    (file.parent / "adapter_config.json").write_text(json.dumps({**config, "use_rslora": True}))
    require_merged(tiny_checkpoint, file, {layer: (2 if "down" in layer else 8) / RANK**0.5 for layer in LAYERS})


def test_peft_does_not_describe_a_file_of_kohya(tiny_checkpoint: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "style.safetensors", tiny_checkpoint, "kohya")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 64}))
    require_merged(tiny_checkpoint, file, 1.0)


def test_alpha_of_diffusers_is_in_the_metadata(tiny_checkpoint: Path, tmp_path: Path) -> None:
    fields = json.dumps({"transformer.r": RANK, "transformer.lora_alpha": 3})
    file = write(tmp_path / "style.safetensors", tiny_checkpoint, "diffusers", lora_adapter_metadata=fields)
    require_merged(tiny_checkpoint, file, 3 / RANK)


@pytest.mark.parametrize("files", [["adapter_model.safetensors", "adapter_config.json"], ["style.safetensors"]])
def test_the_description_of_a_lora_on_the_hub_is_downloaded(monkeypatch: pytest.MonkeyPatch, files: list[str]) -> None:
    fetched = []

    def download(model: str, choose: Callable[[Sequence[str]], str]) -> Path:
        fetched.append(choose(files))
        return Path("snapshot") / fetched[-1]

    monkeypatch.setattr(lora_files, "download_file", download)
    assert lora_files.find_lora("owner/lora") == Path("snapshot") / files[0]
    assert fetched == files


def refusal(folder: Path, file: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_adapters([NamedLora(str(file))], read_config(folder))
    return f"{caught.value.what}\n{caught.value.hint}"


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        json.dumps({"lora_alpha": "8"}),
        json.dumps({"lora_alpha": True}),
        json.dumps({"lora_alpha": 10**400}),
        json.dumps({"alpha_pattern": {"(a+)+$": 3}}),
        json.dumps({"alpha_pattern": [1]}),
    ],
)
def test_a_damaged_description(tiny_checkpoint: Path, tmp_path: Path, content: str) -> None:
    file = write(tmp_path / "style.safetensors", tiny_checkpoint, "peft")
    (tmp_path / "adapter_config.json").write_text(content)
    assert "adapter_config.json is damaged" in refusal(tiny_checkpoint, file)
    (tmp_path / "adapter_config.json").unlink()
    file = write(tmp_path / "style.safetensors", tiny_checkpoint, "peft", lora_adapter_metadata=content)
    assert f"the metadata of {file} is damaged" in refusal(tiny_checkpoint, file)


def test_a_description_of_another_kind_of_update(tiny_checkpoint: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "style.safetensors", tiny_checkpoint, "peft")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "use_dora": True}))
    assert "has use_dora: only plain LoRAs are read" in refusal(tiny_checkpoint, file)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_quantized_lora_is_refused(tiny_checkpoint: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {}
    for layer, (down, up) in parts(tiny_checkpoint).items():
        tensors[f"{layer}.lora_A.weight"] = down.clamp(0, 1).to(dtype)
        tensors[f"{layer}.lora_B.weight"] = up.clamp(0, 1).to(dtype)
        tensors[f"{layer}.lora_A.weight_scale"] = torch.ones(1)
    file = tmp_path / "style.safetensors"
    save_file(tensors, file)
    message = refusal(tiny_checkpoint, file)
    stored = {torch.int8: "I8", torch.uint8: "U8", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2"}
    assert f"is a quantized LoRA: {2 * len(LAYERS)} of its tensors are stored as {stored[dtype]}" in message
    assert "in bfloat16, float16 or float32" in message


def test_layers_that_do_not_fit_are_named_and_counted(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A LoRA of another model: some layers have names that no layer of this one has."""
    tensors = {}
    for name in "abcdefghijkl":
        tensors[f"lora_unet_double_blocks_{name}.lora_down.weight"] = torch.ones(2, 3)
        tensors[f"lora_unet_double_blocks_{name}.lora_up.weight"] = torch.ones(3, 2)
    file = tmp_path / "flux.safetensors"
    save_file(tensors, file)
    message = refusal(tiny_checkpoint, file)
    assert "12 of layers that the model does not have:\n  lora_unet_double_blocks_a\n" in message
    assert "  … and 4 more" in message and "double_blocks_l" not in message


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({f"base_model.model.{LAYERS[0]}.lora_A.weight": torch.ones(1, 1)}, "1 that update the same layer again"),
        ({f"{LAYERS[0]}.alpha": torch.ones(2)}, "1 whose alpha is not one finite number"),
        ({f"{LAYERS[0]}.alpha": torch.tensor(torch.nan)}, "1 whose alpha is not one finite number"),
        ({f"{LAYERS[0]}.lora_B.bias": torch.ones(2)}, "1 that do not belong to a LoRA"),
        ({f"{LAYERS[0]}.lora_magnitude_vector.weight": torch.ones(2)}, "1 that do not belong to a LoRA"),
        ({f"{LAYERS[1]}.lora_A.weight": torch.tensor(1.0)}, "1 of another shape"),
        ({f"{LAYERS[1]}.lora_B.weight": torch.tensor(1.0)}, "1 of another shape"),
    ],
)
def test_tensors_that_cannot_be_merged(
    tiny_checkpoint: Path, tmp_path: Path, extra: dict[str, torch.Tensor], message: str
) -> None:
    tensors = {}
    for layer, (down, up) in parts(tiny_checkpoint).items():
        tensors[f"{layer}.lora_A.weight"], tensors[f"{layer}.lora_B.weight"] = down, up
    file = tmp_path / "style.safetensors"
    save_file({**tensors, **extra}, file)
    assert message in refusal(tiny_checkpoint, file)
