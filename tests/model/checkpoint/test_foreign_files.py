"""Weights in the layouts of other programs: they load as the numbers that they stand for."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.checkpoint import loader, tensor_files
from model.checkpoint.fp8 import Fp8Linear
from model.checkpoint.int8 import Int8Linear, quantize_weight
from model.checkpoint.loader import load_checkpoint
from model.checkpoint.lora import read_adapters
from model.checkpoint.named_lora import parse_loras
from model.checkpoint.quantization import OFF, QUANTIZATIONS, Quantization
from model.checkpoint.random_weights import byte_tokenizer, config_fields, write_random_checkpoint
from model.checkpoint.sharding import Shards
from model.checkpoint.weights_file import HEAD
from model.errors import CheckpointError
from model.network.configuration import read_config
from model.network.rotation import rotate, rotation_group
from model.network.sensenova import SenseNovaU1
from tests.model.checkpoint.foreign_files import (
    is_linear,
    official_tensors,
    rotated_int8,
    scaled_fp8,
    write_gguf,
    write_safetensors,
)
from tests.model.checkpoint.test_lora import write_lora

CPU = torch.device("cpu")
KINDS = ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "F16", "BF16", "F32")
GROUPS = {256: 256, 768: 256, 1536: 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two layers, whose rows are whole K blocks."""
    tokenizer = byte_tokenizer()
    fields = config_fields(
        hidden=256, layers=2, heads=4, kv_heads=2, head_dim=64, ffn=768, vocabulary=264, vision_hidden=64
    )
    folder = tmp_path_factory.mktemp("own") / "checkpoint"
    write_random_checkpoint(folder, fields, dtype=torch.float32, tokenizer=tokenizer)
    return folder


@pytest.fixture(scope="module")
def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return official_tensors(folder)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def load(
    folder: Path, dtype: torch.dtype = torch.float32, weights: Path | None = None, **options: object
) -> SenseNovaU1:
    return load_checkpoint(folder, CPU, dtype, weights=weights, **options)  # type: ignore[arg-type]


def state(network: SenseNovaU1) -> dict[str, torch.Tensor]:
    return {name: tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor
            for name, tensor in network.state_dict().items()}  # fmt: skip


def require_same(ours: SenseNovaU1, expected: SenseNovaU1) -> None:
    one, other = state(ours), state(expected)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def mixed(kind: str) -> Callable[[str], str]:
    """Formats as published files have them: linear layers quantized, the rest in float32, the embedding in float16."""
    return lambda name: kind if is_linear(name) else "F16" if "embed_tokens" in name else "F32"


@pytest.mark.parametrize("chunk_bytes", [2**22, 5000])
@pytest.mark.parametrize("kind", KINDS)
def test_gguf(
    kind: str,
    chunk_bytes: int,
    folder: Path,
    tensors: dict[str, torch.Tensor],
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = write_gguf(copy.parent / "file.gguf", tensors, mixed(kind))
    write_safetensors(copy, numbers)
    monkeypatch.setattr(tensor_files, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(loader, "DECODED_NUMBERS", chunk_bytes // 3)
    for dtype in (torch.float32, torch.bfloat16):
        require_same(load(folder, dtype, copy.parent / "file.gguf"), load(copy, dtype))


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_every_tensor_in_blocks_and_reshaped_ones(
    prefix: str, folder: Path, tensors: dict[str, torch.Tensor], copy: Path
) -> None:
    """Convolutions and vectors whose rows are not whole blocks are stored in another shape."""
    file = copy.parent / "file.gguf"
    numbers = write_gguf(file, tensors, lambda name: "Q4_K" if tensors[name].numel() % 256 == 0 else "F32", prefix)
    write_safetensors(copy, numbers)
    require_same(load(folder, weights=file), load(copy))


@pytest.mark.parametrize("kind", ["Q8_0", "Q6_K"])
def test_gguf_on_two_ranks(kind: str, folder: Path, tensors: dict[str, torch.Tensor], copy: Path) -> None:
    """The columns of a rank are not whole blocks here."""
    file = copy.parent / "file.gguf"
    write_safetensors(copy, write_gguf(file, tensors, mixed(kind)))
    for index in (0, 1):
        shards = Shards.equal(index, 2)
        require_same(load(folder, weights=file, shards=shards), load(copy, shards=shards))


def test_loras_are_merged_into_the_numbers_of_the_file(
    folder: Path, tensors: dict[str, torch.Tensor], copy: Path
) -> None:
    file = copy.parent / "file.gguf"
    write_safetensors(copy, write_gguf(file, tensors, mixed("Q5_K")))
    names = [name.removesuffix(".weight") for name in tensors if "layers.1" in name and "gate_proj" in name]
    lora = write_lora(
        copy.parent / "lora.safetensors", {name: tuple(tensors[f"{name}.weight"].shape) for name in names}, rank=2
    )
    adapters = read_adapters(parse_loras(str(lora)), read_config(folder))
    require_same(load(folder, weights=file, adapters=adapters), load(copy, adapters=adapters))


@pytest.mark.parametrize("make", [dict, lambda tensors: rotated_int8(tensors, rotation_group)])
@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model."])
def test_safetensors_with_a_prefix(
    prefix: str,
    make: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    folder: Path,
    tensors: dict[str, torch.Tensor],
    copy: Path,
) -> None:
    stored = make(tensors)
    write_safetensors(copy, stored)
    expected = load(copy)
    write_safetensors(copy, {prefix + name: tensor for name, tensor in stored.items()})
    require_same(load(folder, weights=copy / "model.safetensors"), expected)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("key", [".scale_weight", ".weight_scale"])
def test_scaled_float8(key: str, rows: bool, folder: Path, tensors: dict[str, torch.Tensor], copy: Path) -> None:
    stored, numbers = scaled_fp8(tensors, key, rows)
    write_safetensors(copy, stored)
    file = copy / "model.safetensors"
    for dtype in (torch.float32, torch.bfloat16):
        loaded = load(folder, dtype, file)
        expected = copy.parent / f"plain-{dtype}"
        shutil.copytree(copy, expected)
        write_safetensors(expected, numbers)
        require_same(loaded, load(expected, dtype))


def test_float8_is_kept(folder: Path, tensors: dict[str, torch.Tensor], copy: Path) -> None:
    stored, _ = scaled_fp8(tensors)
    write_safetensors(copy, stored)
    network = load(copy, torch.bfloat16, quantized=QUANTIZATIONS["fp8-all"])
    name = "language_model.model.layers.1.self_attn.{}_proj_mot_gen"
    layer = network.gen.blocks[1].attention.qkv_proj
    assert isinstance(layer, Fp8Linear)
    values = torch.cat([stored[f"{name.format(part)}.weight"] for part in "qkv"])
    scales = torch.cat(
        [
            stored[f"{name.format(part)}.scale_weight"].expand(len(stored[f"{name.format(part)}.weight"]))
            for part in "qkv"
        ]
    )
    assert torch.equal(layer.weight.view(torch.uint8), values.view(torch.uint8)) and torch.equal(layer.scale, scales)


@pytest.mark.parametrize("group", [256, 64, 1])
def test_int8_is_dequantized(group: int, folder: Path, tensors: dict[str, torch.Tensor], copy: Path) -> None:
    """A rotation that is ignored would give other numbers: the error of eight bits is below 2 %."""
    write_safetensors(copy, rotated_int8(tensors, lambda columns: group))
    network, original = load(copy), load(folder)
    for ours, theirs in zip(network.parameters(), original.parameters(), strict=True):
        assert (ours - theirs).norm() <= 0.02 * theirs.norm()


@pytest.mark.parametrize("name", ["int8", "int8-all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_is_kept(
    name: str, dtype: torch.dtype, folder: Path, tensors: dict[str, torch.Tensor], copy: Path
) -> None:
    """Such a file gives the same bytes as quantizing the original while it is loaded."""
    rounded = {key: tensor.to(dtype) for key, tensor in tensors.items()}
    write_safetensors(copy, rotated_int8(rounded, lambda columns: 256))
    require_projections_same(
        load(copy, dtype, quantized=QUANTIZATIONS[name]), load(folder, dtype, quantized=QUANTIZATIONS[name])
    )


def require_projections_same(ours: SenseNovaU1, expected: SenseNovaU1) -> None:
    ours_state, expected_state = ours.state_dict(), expected.state_dict()
    names = [name for name, module in expected.named_modules() if isinstance(module, Int8Linear)]
    assert names
    for name in names:
        if name != "lm_head":
            assert torch.equal(ours_state[f"{name}.weight"], expected_state[f"{name}.weight"])
            assert torch.equal(ours_state[f"{name}.scale"], expected_state[f"{name}.scale"])


def test_int8_in_other_groups_is_quantized_again(folder: Path, tensors: dict[str, torch.Tensor], copy: Path) -> None:
    write_safetensors(copy, rotated_int8(tensors, lambda columns: 64))
    network = load(copy, quantized=QUANTIZATIONS["int8"])
    layer, original = network.gen.blocks[0].mlp.down_proj, load(folder).gen.blocks[0].mlp.down_proj
    rows = torch.randn(20, 768)
    expected = original(rows)
    assert (layer(rows) - expected).norm() < 0.03 * expected.norm()


def test_kept_int8_on_two_ranks(folder: Path, tensors: dict[str, torch.Tensor], copy: Path) -> None:
    """A rank's 384 columns of an MLP are not whole groups of 256, so they are quantized again; its rows are kept."""
    write_safetensors(copy, rotated_int8(tensors, lambda columns: 256))
    half = load(copy, quantized=QUANTIZATIONS["int8"], shards=Shards.equal(1, 2))
    whole = load(copy, quantized=QUANTIZATIONS["int8"])
    gate_up = half.gen.blocks[0].mlp.gate_up_proj
    assert torch.equal(gate_up.weight[:384], whole.gen.blocks[0].mlp.gate_up_proj.weight[384:768])
    down = half.gen.blocks[0].mlp.down_proj
    expected = quantize_weight(load(copy).gen.blocks[0].mlp.down_proj.weight[:, 384:], down.group)
    assert torch.equal(down.stored()[0], expected.values)


def test_float8_of_int8_is_refused(tensors: dict[str, torch.Tensor], copy: Path) -> None:
    write_safetensors(copy, rotated_int8(tensors, lambda columns: 256))
    with pytest.raises(CheckpointError, match="32 tensors are int8 already") as raised:
        load(copy, torch.bfloat16, quantized=QUANTIZATIONS["fp8"])
    assert "`quantization=int8`" in str(raised.value.hint)


def test_a_gguf_file_that_is_none(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.gguf"
    file.write_text("<html>the page of a download, not the file</html>")
    with pytest.raises(CheckpointError, match=r"page\.gguf is not a GGUF file") as raised:
        load(folder, weights=file)
    assert raised.value.hint == "fetch the file again, or name another one"


def test_a_lora_on_int8_changes_only_its_weights(folder: Path, tensors: dict[str, torch.Tensor], copy: Path) -> None:
    write_safetensors(copy, rotated_int8(tensors, lambda columns: 256))
    name = "language_model.model.layers.1.mlp_mot_gen.down_proj"
    lora = write_lora(copy.parent / "lora.safetensors", {name: (256, 768)}, rank=2)
    adapters = read_adapters(parse_loras(str(lora)), read_config(folder))
    plain = load(copy, quantized=QUANTIZATIONS["int8"]).state_dict()
    merged = load(copy, quantized=QUANTIZATIONS["int8"], adapters=adapters).state_dict()
    changed = {key for key in plain if not torch.equal(plain[key], merged[key])}
    assert {key.rpartition(".")[0] for key in changed} == {"gen.blocks.1.mlp.down_proj"}


@pytest.mark.parametrize("quantized", [OFF, QUANTIZATIONS["int8-all"]])
def test_a_file_without_lm_head(
    quantized: Quantization, folder: Path, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    pruned = {name: tensor for name, tensor in tensors.items() if name != HEAD}
    file = tmp_path / "pruned.gguf"
    write_gguf(file, pruned, mixed("Q8_0"))
    network = load(folder, weights=file, quantized=quantized)
    with pytest.raises(Exception, match="this file cannot write text: it has no lm_head"):
        network.logits(torch.zeros(1, 256))


def test_a_file_that_lacks_more(folder: Path, tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    file = tmp_path / "less.gguf"
    write_gguf(file, {name: tensor for name, tensor in tensors.items() if "layers.1.mlp" not in name}, mixed("F16"))
    with pytest.raises(CheckpointError, match=r"less\.gguf: the weights do not fit config\.json"):
        load(folder, weights=file)


def dequantized(tensor: torch.Tensor, group: int = 64) -> torch.Tensor:
    """The numbers of a weight that was rotated and quantized to int8."""
    quantized = quantize_weight(tensor, group)
    return rotate(quantized.values.float() * quantized.scales, group)


@pytest.mark.parametrize("layout", ["gguf", "fp8", "int8"])
def test_all_tensors_of_an_8b(layout: str, tmp_path: Path) -> None:
    """A narrow U1.5 with the 42 layers and the 1116 tensors of the published one, 592 of them quantized."""
    fields = config_fields(
        hidden=64, layers=42, heads=2, kv_heads=2, head_dim=32, ffn=64, vocabulary=264, vision_hidden=32
    )
    folder = tmp_path / "own"
    write_random_checkpoint(folder, fields, dtype=torch.float32, tokenizer=byte_tokenizer())
    tensors = official_tensors(folder)
    assert (len(tensors), sum(map(is_linear, tensors))) == (1116, 592)
    file = tmp_path / ("file.gguf" if layout == "gguf" else "file.safetensors")
    if layout == "gguf":
        numbers = write_gguf(file, tensors, mixed("Q8_0"))
    elif layout == "fp8":
        stored, numbers = scaled_fp8(tensors)
        save_file(stored, file)
    else:
        save_file({name: each.contiguous() for name, each in rotated_int8(tensors, lambda _: 64).items()}, file)
        numbers = {name: dequantized(each) if is_linear(name) else each for name, each in tensors.items()}
    write_safetensors(folder, numbers)
    require_same(load(folder, weights=file), load(folder))
