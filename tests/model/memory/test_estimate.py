"""The memory estimate: the offload plan that it chooses, and its messages."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from config.errors import SettingsError
from model import (
    Engine,
)
from model.checkpoint.quantization import QUANTIZATIONS
from model.checkpoint.random_weights import SHAPES, config_fields, random_network
from model.errors import DeviceMemoryError
from model.memory.estimate import (
    ALL_RESIDENT,
    SPARE_BYTES,
    USUAL_PREFIXES,
    OffloadPlan,
    Weights,
    Workload,
    choose_offload_plan,
    peak_bytes,
    working_bytes,
)
from model.memory.layer_buffers import RING, buffer_numbers, text_buffer_numbers
from model.network.configuration import parse_config

GIB = 2**30


def test_less_memory_than_the_smallest_plan_needs() -> None:
    with pytest.raises(DeviceMemoryError, match="1 MiB of memory is too little for this: it needs at least"):
        Engine.load("demo", device="cpu", gpu_memory="1MiB")


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (4096, "a smaller picture (`size=1024x1024`), fewer or smaller input pictures, or fewer tokens"),
        (1024, "a smaller picture (`size=512x512`), fewer or smaller input pictures, or fewer tokens"),
        (64, "a smaller picture, fewer or smaller input pictures, or fewer tokens"),
        (0, "fewer or smaller input pictures, or fewer tokens"),
    ],
)
def test_the_hint_names_a_smaller_request(tokens: int, words: str) -> None:
    """The hint names only smaller sizes, and no picture where the request makes none."""
    config = parse_config(config_fields(**SHAPES["u1-8b"]), "x")
    with pytest.raises(DeviceMemoryError) as raised:
        choose_offload_plan("auto", config, Weights.of(config, 2), Workload(tokens, (100,)), 2, 2**20)
    assert raised.value.hint == f"allow more (`gpu_memory`), or ask for {words}"


@pytest.mark.parametrize(
    ("gib", "expected"),
    [(80, "off"), (36, "off"), (35, "module"), (20, "module"), (16, "layers"), (8, "layers"), (4, "layers")],
)
def test_the_fastest_that_fits_is_chosen(gib: int, expected: str) -> None:
    """An 8B at 2048×2048; peaks measured on an H100 are in docs/memory.md."""
    config = parse_config(config_fields(**SHAPES["u1-8b"]), "u1-8b")
    weights, work = Weights.of(config, 2), Workload(4096, USUAL_PREFIXES)
    offload_plan = choose_offload_plan("auto", config, weights, work, 2, gib * GIB)
    assert offload_plan.kind == expected
    assert peak_bytes(config, weights, offload_plan, work, 2) <= gib * GIB
    if expected == "layers":
        more = replace(offload_plan, gen_buffers=offload_plan.gen_buffers + 1)
        assert peak_bytes(config, weights, more, work, 2) > gib * GIB - SPARE_BYTES
        assert offload_plan.und_buffers >= offload_plan.gen_buffers


@pytest.mark.parametrize(
    ("quantization", "gib", "expected"),
    [
        ("off", 78, "off"),
        ("off", 72, "module"),
        ("off", 24, "layers"),
        ("fp8-all", 48, "off"),
        ("int8-all", 31, "module"),
    ],
)
def test_plans_of_a_mixture_of_experts(quantization: str, gib: int, expected: str) -> None:
    """A3B at 2048×2048, as docs/experts.md says. In 24 GiB the whole generation tower stays."""
    config, work = parse_config(config_fields(**SHAPES["a3b"]), "a3b"), Workload(4096, USUAL_PREFIXES)
    weights = Weights.of(config, 2, QUANTIZATIONS[quantization])
    offload_plan = choose_offload_plan("auto", config, weights, work, 2, gib * GIB)
    assert offload_plan.kind == expected
    assert expected != "layers" or offload_plan.gen_buffers == 48


@pytest.mark.parametrize("quantization", ["off", "fp8", "fp8-all", "int8-all"])
def test_the_weights_of_experts_are_counted(quantization: str) -> None:
    fields = config_fields(**{**SHAPES["a3b"], "layers": 2, "hidden": 128, "vocabulary": 300, "experts": (20, 10)})
    config = parse_config(fields, "a3b")
    network = random_network(config, torch.device("cpu"), torch.bfloat16, QUANTIZATIONS[quantization])
    size = sum(each.nbytes for each in (*network.parameters(), *network.buffers()))
    counted = Weights.of(config, 2, QUANTIZATIONS[quantization]).on_device(ALL_RESIDENT)
    assert size <= counted <= 1.01 * size


def test_all_buffers_are_used_if_the_picture_then_fits_in_all_layers() -> None:
    """With one buffer less, only one layer's keys and values of the picture are stored, which takes far less memory."""
    config = parse_config(config_fields(**SHAPES["u1-8b"]), "u1-8b")
    weights, work = Weights.of(config, 2), Workload(4096, USUAL_PREFIXES)
    all_buffers = OffloadPlan("layers", weights.layers, weights.layers, whole_head=False)
    enough = peak_bytes(config, weights, all_buffers, work, 2) + SPARE_BYTES
    assert choose_offload_plan("layers", config, weights, work, 2, enough) == all_buffers
    fewer = choose_offload_plan("layers", config, weights, work, 2, enough - 1)
    assert fewer.gen_buffers == weights.layers - 1
    least = replace(all_buffers, gen_buffers=weights.layers - 1, und_buffers=weights.layers - 1)
    saved = peak_bytes(config, weights, all_buffers, work, 2) - peak_bytes(config, weights, least, work, 2)
    assert saved > weights.gen_layer + GIB
    written = Workload(0, (4096,))
    assert working_bytes(config, written, 2, True) == working_bytes(config, written, 2, False)


@pytest.mark.parametrize("quantization", ["off", "int8", "int8-all"])
@pytest.mark.parametrize("gib", [3, 4, 6, 8, 9, 10, 12, 14, 16, 18, 20])
@pytest.mark.parametrize("workload", [Workload(4096, USUAL_PREFIXES), Workload(0, (1500,))])
def test_memory_is_used_and_never_exceeded(gib: int, workload: Workload, quantization: str) -> None:
    """An 8B: another layer or chunk would not fit, while a picture is drawn and while text is written."""
    config = parse_config(config_fields(**SHAPES["u1-8b"]), "u1-8b")
    weights, budget = Weights.of(config, 2, QUANTIZATIONS[quantization]), gib * GIB - SPARE_BYTES
    plan = choose_offload_plan("layers", config, weights, workload, 2, gib * GIB)

    def fits(changed: OffloadPlan) -> bool:
        return peak_bytes(config, weights, changed, workload, 2) <= budget

    assert fits(plan)
    if plan.gen_buffers < weights.layers:
        assert not fits(replace(plan, gen_buffers=plan.gen_buffers + 1))
    if 0 < plan.head_buffers < weights.head_chunks:
        assert not fits(replace(plan, head_buffers=plan.head_buffers + 1))
    if not plan.head_buffers:
        assert not fits(replace(plan, und_buffers=plan.und_buffers + 1))


def test_what_each_pass_of_a_text_loads() -> None:
    """An 8B whose understanding tower has all its layers in memory loads the rest of `lm_head` in each pass."""
    config = parse_config(config_fields(**SHAPES["u1-8b"]), "u1-8b")
    weights = Weights.of(config, 2, QUANTIZATIONS["int8-all"])
    towers = weights.layers * weights.und_layer
    loaded = []
    for memory in (2 * weights.und_layer, towers // 2, towers, towers + weights.head // 2, towers + weights.head + GIB):
        plan = weights.divide(memory, weights.layers)
        assert weights.on_device(plan) - weights.rest <= memory
        loaded.append(weights.text_pass_bytes(plan))
    assert loaded[0] == towers + weights.head and loaded[-1] == 0
    assert loaded == sorted(loaded, reverse=True) and loaded[3] < weights.head
    assert plan.head_buffers == weights.head_chunks


@pytest.mark.parametrize(
    ("layers", "chunks", "buffers", "head_buffers", "loaded"),
    [
        (42, 4, 2, 0, 46),
        (42, 4, 39, 0, 9),
        (42, 19, 42, 2, 19),
        (42, 19, 42, 7, 14),
        (42, 19, 42, 19, 0),
        (3, 0, 3, 0, 0),
    ],
)
def test_layers_and_chunks_that_are_loaded_in_each_pass(
    layers: int, chunks: int, buffers: int, head_buffers: int, loaded: int
) -> None:
    numbers = text_buffer_numbers(layers, chunks, buffers, head_buffers)
    assert len(numbers) == layers + chunks and max(numbers) < buffers + head_buffers
    assert sum(numbers.count(number) > 1 for number in numbers) == loaded
    if head_buffers:
        assert min(numbers[layers:]) >= buffers > max(numbers[:layers])


@pytest.mark.parametrize(
    ("layers", "buffers"), [(42, 2), (42, 3), (42, 14), (42, 36), (42, 41), (6, 4), (3, 2), (1, 1)]
)
def test_layers_that_share_buffers_are_spread_evenly(layers: int, buffers: int) -> None:
    numbers = buffer_numbers(layers, buffers)
    assert set(numbers) == set(range(buffers))
    sharing = [layer for layer, number in enumerate(numbers) if number < RING and buffers < layers]
    gaps = {later - earlier for earlier, later in pairwise(sharing)}
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert all(numbers.count(number) == 1 for number in range(RING, buffers))
    # Neighbours never wait for the same buffer, except perhaps the last of a pass and the first of the next.
    assert all(numbers[earlier] != numbers[later] for earlier, later in pairwise(sharing))


def test_an_unknown_offload() -> None:
    with pytest.raises(SettingsError, match="offload='modules': must be auto, off, module or layers"):
        Engine.load("demo", device="cpu", offload="modules")
