"""The memory estimate: the offload plan that it chooses, and its messages."""

from itertools import pairwise

import pytest

from config.errors import SettingsError
from model import (
    Engine,
)
from model.checkpoint.random_weights import SHAPES, config_fields
from model.errors import DeviceMemoryError
from model.memory.estimate import (
    SPARE_BYTES,
    USUAL_PREFIXES,
    OffloadPlan,
    Weights,
    Workload,
    choose_offload_plan,
    peak_bytes,
    working_bytes,
)
from model.memory.layer_buffers import RING, buffer_numbers
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
        choose_offload_plan("auto", config, Weights.of(config, 2, ()), Workload(tokens, (100,)), 2, 2**20)
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
        more = OffloadPlan("layers", offload_plan.buffers + 1, whole_head=False)
        assert peak_bytes(config, weights, more, work, 2) > gib * GIB - SPARE_BYTES


def test_all_buffers_are_used_if_the_picture_then_fits_in_all_layers() -> None:
    """With one buffer less, only one layer's keys and values of the picture are stored, which takes far less memory."""
    config = parse_config(config_fields(**SHAPES["u1-8b"]), "u1-8b")
    weights, work = Weights.of(config, 2), Workload(4096, USUAL_PREFIXES)
    all_buffers = OffloadPlan("layers", weights.layers, whole_head=False)
    enough = peak_bytes(config, weights, all_buffers, work, 2) + SPARE_BYTES
    assert choose_offload_plan("layers", config, weights, work, 2, enough) == all_buffers
    fewer = choose_offload_plan("layers", config, weights, work, 2, enough - 1)
    assert fewer == OffloadPlan("layers", weights.layers - 1, whole_head=False)
    saved = peak_bytes(config, weights, all_buffers, work, 2) - peak_bytes(config, weights, fewer, work, 2)
    assert saved > weights.layer + GIB
    written = Workload(0, (4096,))
    assert working_bytes(config, written, 2, True) == working_bytes(config, written, 2, False)


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
