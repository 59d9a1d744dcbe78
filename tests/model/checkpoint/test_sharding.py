"""Sharding: the ranks' shards together are the whole checkpoint, and a rank reads little more than its shard."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from model.checkpoint import tensor_files
from model.checkpoint.fp8 import Fp8Linear, quantize_rows
from model.checkpoint.int8 import Int8Head, Int8Linear
from model.checkpoint.layout import checkpoint_layout
from model.checkpoint.loader import load_checkpoint, replace_adapters
from model.checkpoint.lora import read_adapters
from model.checkpoint.named_lora import NamedLora
from model.checkpoint.quantization import QUANTIZATIONS
from model.checkpoint.quantized_experts import QuantizedExperts
from model.checkpoint.random_weights import SHAPES, config_fields, random_shard, write_random_checkpoint
from model.checkpoint.sharding import WHOLE, Shard, Shards, possible_splits, require_split, split_config
from model.errors import DeviceError
from model.memory.estimate import ALL_RESIDENT, Weights
from model.network.configuration import parse_config, read_config
from model.network.sensenova import SenseNovaU1
from tests.model.checkpoint.test_lora import matrices, write_lora

CPU = torch.device("cpu")


def reassembled(shards: list[SenseNovaU1], folder: Path) -> dict[str, torch.Tensor]:
    """Join the tensors of all shards: return the checkpoint's tensors by their official names."""
    config = read_config(folder)
    whole, layout = checkpoint_layout(config), checkpoint_layout(shards[0].config)
    states = [shard.state_dict() for shard in shards]
    tensors = {}
    for name, target in layout.items():
        elements = slice(target.offset, target.offset + target.numel)
        parts = [state[target.parameter].view(-1)[elements].view(target.shape) for state in states]
        axis = next((axis for axis, side in enumerate(target.shape) if side != whole[name].shape[axis]), None)
        if axis is None:
            assert all(torch.equal(part, parts[0]) for part in parts), name
            tensors[name] = parts[0]
        else:
            tensors[name] = torch.cat(parts, axis).narrow(axis, 0, whole[name].shape[axis])
        assert tensors[name].shape == whole[name].shape
    return tensors


@pytest.mark.parametrize("name", ["u1", "u15", "a3b"])
def test_shards_join_to_the_whole(name: str, parity_checkpoint: Callable[[str], Path]) -> None:
    folder = parity_checkpoint(name)
    whole = reassembled([load_checkpoint(folder, CPU, torch.float32)], folder)
    parts = [load_checkpoint(folder, CPU, torch.float32, shards=Shards.equal(index, 2)) for index in range(2)]
    halves = reassembled(parts, folder)
    assert all(torch.equal(halves[name], tensor) for name, tensor in whole.items())
    assert parts[0].und.blocks[0].attention.o_proj.weight.shape == (64, 64)  # 2 of 4 heads


def test_an_odd_vocabulary_is_sharded(tmp_path: Path) -> None:
    fields = config_fields(
        hidden=64, layers=1, heads=4, kv_heads=2, head_dim=32, ffn=64, vocabulary=301, vision_hidden=64
    )
    write_random_checkpoint(tmp_path / "odd", fields, dtype=torch.float32)
    folder = tmp_path / "odd"
    whole = reassembled([load_checkpoint(folder, CPU, torch.float32)], folder)
    parts = [load_checkpoint(folder, CPU, torch.float32, shards=Shards.equal(index, 2)) for index in range(2)]
    halves = reassembled(parts, folder)
    assert all(torch.equal(halves[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize("name", ["u1", "u15", "a3b"])
def test_each_of_two_ranks_reads_little_more_than_half(
    name: str, parity_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = parity_checkpoint(name)
    total = sum(tensor.stop - tensor.start for tensor in tensor_files.stored_tensors(folder).values())
    read = []
    preadv = os.preadv

    def counted(descriptor: int, buffers: list[memoryview], place: int) -> int:
        read.append(preadv(descriptor, buffers, place))
        return read[-1]

    monkeypatch.setattr(tensor_files.os, "preadv", counted)
    load_checkpoint(folder, CPU, torch.float32, shards=Shards.equal(1, 2))
    assert 0.5 < sum(read) / total <= 0.55


def test_the_towers_can_have_different_numbers_of_shards(parity_checkpoint: Callable[[str], Path]) -> None:
    """Half of the understanding tower and the whole generation tower have the weights of such ranks."""
    folder = parity_checkpoint("u1")
    mixed = load_checkpoint(folder, CPU, torch.float32, shards=Shards(Shard(1, 2), Shard()))
    half = load_checkpoint(folder, CPU, torch.float32, shards=Shards.equal(1, 2))
    whole = load_checkpoint(folder, CPU, torch.float32)
    for name, parameter in mixed.named_parameters():
        is_gen = name.startswith(("gen.", "fm_head."))
        assert torch.equal(parameter, (whole if is_gen else half).get_parameter(name)), name
    size = sum(parameter.nbytes for parameter in mixed.parameters())
    config = read_config(folder)
    weights = Weights.of(config, 4, shards=Shards(Shard(1, 2), Shard()))
    assert weights.on_device(ALL_RESIDENT) == pytest.approx(size, rel=0.01)


def test_a_lora_is_merged_into_shards(tmp_path: Path, tiny_checkpoint: Path) -> None:
    config = read_config(tiny_checkpoint)
    file = write_lora(tmp_path / "lora.safetensors", matrices(tiny_checkpoint))
    adapters = read_adapters([NamedLora(str(file), 0.7)], config)
    plain = reassembled([load_checkpoint(tiny_checkpoint, CPU, torch.float32)], tiny_checkpoint)
    network = load_checkpoint(tiny_checkpoint, CPU, torch.float32, adapters=adapters)
    whole = reassembled([network], tiny_checkpoint)
    parts = [
        load_checkpoint(tiny_checkpoint, CPU, torch.float32, adapters=adapters, shards=Shards.equal(index, 2))
        for index in range(2)
    ]
    halves = reassembled(parts, tiny_checkpoint)
    for name, tensor in whole.items():
        torch.testing.assert_close(halves[name], tensor, rtol=0, atol=1e-5)
    for index, part in enumerate(parts):
        replace_adapters(part, tiny_checkpoint, adapters, (), Shards.equal(index, 2))
    without_lora = reassembled(parts, tiny_checkpoint)
    assert all(torch.equal(without_lora[name], tensor) for name, tensor in plain.items())


def test_quantized_shards_have_their_own_scales(tiny_checkpoint: Path) -> None:
    plain = load_checkpoint(tiny_checkpoint, CPU, torch.bfloat16, shards=Shards.equal(1, 2))
    part = load_checkpoint(
        tiny_checkpoint, CPU, torch.bfloat16, quantized=QUANTIZATIONS["fp8"], shards=Shards.equal(1, 2)
    )
    down = part.get_submodule("gen.blocks.0.mlp.down_proj")
    assert isinstance(down, Fp8Linear)
    quantized = quantize_rows(plain.get_submodule("gen.blocks.0.mlp.down_proj").weight)
    numbers, scale = quantized.values, quantized.scales
    assert torch.equal(down.weight.float(), numbers.float())
    assert torch.equal(down.scale, scale[:, 0])


def test_shards_of_quantized_experts_have_their_own_scales(parity_checkpoint: Callable[[str], Path]) -> None:
    loads = partial(load_checkpoint, parity_checkpoint("a3b"), CPU, torch.bfloat16, shards=Shards.equal(1, 2))
    plain, part = loads(), loads(quantized=QUANTIZATIONS["fp8-all"])
    for name in ("gen.blocks.0.mlp.down_proj", "und.blocks.1.mlp.gate_up_proj"):
        weight, experts = plain.get_parameter(f"{name}.weight"), part.get_submodule(name)
        assert isinstance(experts, QuantizedExperts)
        for number in range(len(weight)):
            quantized = quantize_rows(weight[number])
            assert torch.equal(experts.weight[number].float(), quantized.values.float())
            assert torch.equal(experts.scale[number], quantized.scales[:, 0])


def test_int8_shards_add_up_to_the_whole_product(tmp_path: Path) -> None:
    """Each rank rotates whole groups of its own columns, so the sum of the ranks' products is near the whole one."""
    fields = config_fields(
        hidden=128, layers=1, heads=8, kv_heads=2, head_dim=64, ffn=512, vocabulary=256, vision_hidden=64
    )
    write_random_checkpoint(tmp_path / "model", fields, dtype=torch.float32)
    x = torch.randn(20, 512)
    loads = partial(load_checkpoint, tmp_path / "model", CPU, torch.float32)
    plain = loads().get_submodule("gen.blocks.0.mlp.down_proj")(x)
    total = torch.zeros_like(plain)
    for index in range(2):
        shard = loads(quantized=QUANTIZATIONS["int8-all"], shards=Shards.equal(index, 2))
        down = shard.get_submodule("gen.blocks.0.mlp.down_proj")
        assert isinstance(down, Int8Linear) and down.group == 256
        total += down(x[:, index * 256 : (index + 1) * 256])
        assert isinstance(shard.lm_head, Int8Head) and shard.lm_head.weight.shape == (128, 128)
    assert (total - plain).norm() / plain.norm() < 0.014


def test_a_shard_of_the_8b_needs_half_of_its_memory() -> None:
    config = parse_config(config_fields(**SHAPES["u1-8b"]), "8B")
    shard = sum(target.numel for target in checkpoint_layout(split_config(config, 2)).values())
    whole = sum(target.numel for target in checkpoint_layout(config).values())
    assert shard / whole < 0.503
    assert shard * 2 / 2**30 < 17.5
    assert possible_splits(config) == [1, 2, 4, 8]


def test_an_impossible_split_names_the_possible_ones(tiny_checkpoint: Path) -> None:
    config = read_config(tiny_checkpoint)
    with pytest.raises(DeviceError, match=r"3: 4 heads and 2 key/value heads .*\nit can be 1, 2; more GPUs: `cfg"):
        require_split(config, 3)
    require_split(config, 2)


def test_random_shards_join_to_one_network(tiny_checkpoint: Path) -> None:
    config = read_config(tiny_checkpoint)
    whole = reassembled([random_shard(config, CPU, torch.float32, WHOLE)], tiny_checkpoint)
    halves = [random_shard(config, CPU, torch.float32, Shards.equal(index, 2)) for index in range(2)]
    assert all(torch.equal(each, whole[name]) for name, each in reassembled(halves, tiny_checkpoint).items())
