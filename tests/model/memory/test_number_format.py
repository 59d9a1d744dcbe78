"""`dtype=auto`: the fastest number format that the device and its memory allow."""

import pytest
import torch

from config.settings import LoadSettings
from model.checkpoint.random_weights import SHAPES, config_fields
from model.memory import number_format
from model.memory.number_format import choose_dtype
from model.network.configuration import parse_config

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LARGE = parse_config(config_fields(**SHAPES["u1-8b"]), "test")
TOKENS = 32 * 32


@pytest.fixture
def slow_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without instructions for bfloat16; memory is `gpu_memory` alone."""
    monkeypatch.setattr(number_format, "has_bfloat16_units", lambda device: device.type != "cpu")
    monkeypatch.setattr(number_format, "usable_memory", lambda device, limit: limit)


def chosen(device: torch.device = CPU, **settings: object) -> tuple[str, str | None]:
    return choose_dtype(LoadSettings.model_validate(settings), device, LARGE, TOKENS)


@pytest.mark.usefixtures("slow_cpu")
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"gpu_memory": "90GiB"}, "float32"),  # all weights fit
        ({"gpu_memory": "20GiB"}, "float32"),  # layers are streamed, as they would be in bfloat16
        ({}, "float32"),  # the memory is not known
        ({"gpu_memory": "90GiB", "quantization": "int8"}, "float32"),
        ({"gpu_memory": "30GiB", "offload": "off", "quantization": "int8-all"}, "float32"),  # 65 GiB without int8
        ({"gpu_memory": "90GiB", "dtype": "bfloat16"}, "bfloat16"),
        ({"gpu_memory": "90GiB", "dtype": "float16"}, "float16"),
        ({"gpu_memory": "90GiB", "tensor_parallel_size": 2}, "float32"),  # processes that share the weights
    ],
)
def test_a_cpu_without_bfloat16_uses_float32(settings: dict[str, object], expected: str) -> None:
    assert chosen(**settings) == (expected, None)


@pytest.mark.usefixtures("slow_cpu")
@pytest.mark.parametrize(
    "settings",
    [
        {"gpu_memory": "40GiB", "offload": "off"},
        {"gpu_memory": "1GiB"},
        {"gpu_memory": "40GiB", "tensor_parallel_size": 2},
        {"gpu_memory": "90GiB", "cfg_parallel_size": 2},
    ],
)
def test_float32_that_does_not_fit_gives_way_with_a_notice(settings: dict[str, object]) -> None:
    dtype, notice = chosen(**settings)
    assert dtype == "bfloat16"
    assert notice is not None and "is too little for float32" in notice


@pytest.mark.usefixtures("slow_cpu")
def test_float8_is_slow_on_such_a_cpu_and_a_notice_says_so() -> None:
    for settings in ({}, {"dtype": "bfloat16"}):
        dtype, notice = chosen(gpu_memory="90GiB", quantization="fp8", **settings)
        assert dtype == "bfloat16"
        assert notice is not None and "in which this CPU is slow" in notice and "`quantization=int8`" in notice
    assert chosen(gpu_memory="90GiB", dtype="bfloat16") == ("bfloat16", None)


@pytest.mark.usefixtures("slow_cpu")
def test_other_devices_use_bfloat16() -> None:
    assert chosen(CUDA, gpu_memory="90GiB") == ("bfloat16", None)


def test_a_cpu_with_bfloat16_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number_format, "has_bfloat16_units", lambda device: True)
    assert chosen() == ("bfloat16", None)
