"""Devices, number formats and the memory that is reported."""

import subprocess
import sys

import pytest
import torch

from model.checkpoint.fp8 import has_fp8_units
from model.devices import has_bfloat16_units, resolve_device, resolve_dtype
from model.errors import DeviceError


def test_auto_takes_what_is_there() -> None:
    there = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert resolve_device("auto").type == there
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:63", "gpu", "cpu:x", "meta", "xpu"])
def test_what_is_not_there(name: str) -> None:
    with pytest.raises(DeviceError):
        resolve_device(name)


def test_number_formats() -> None:
    assert resolve_dtype("float16") == torch.float16
    with pytest.raises(DeviceError, match="bfloat16, float16, float32"):
        resolve_dtype("fp8")


def test_peak_memory_is_the_process_own_and_keeps_what_was_freed() -> None:
    code = """
import torch
from model.checkpoint.fp8 import has_fp8_units
from model.devices import peak_memory
cpu = torch.device("cpu")
before = peak_memory(cpu)
torch.ones(300 * 2**20, dtype=torch.uint8)
print(before, peak_memory(cpu))
"""
    held = torch.ones(400 * 2**20, dtype=torch.uint8)  # this process's own memory is not the child's
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert held.numel() and before < 2**30
    assert after - before > 250 * 2**20


@pytest.mark.parametrize(
    ("machine", "supported", "fast"),
    [
        ("x86_64", (), False),
        ("x86_64", ("mkldnn",), False),  # oneDNN also counts AVX-512 without BF16, which computes in float32
        ("x86_64", ("avx512_bf16",), True),
        ("AMD64", ("amx",), True),
        ("aarch64", ("mkldnn",), True),
        ("arm64", (), False),
    ],
)
def test_cpus_with_units_for_bfloat16(
    monkeypatch: pytest.MonkeyPatch, machine: str, supported: tuple[str, ...], fast: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: "avx512_bf16" in supported)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: "amx" in supported)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: "mkldnn" in supported)
    assert has_bfloat16_units(torch.device("cpu")) is fast


def test_gpus_count_as_fast_in_bfloat16() -> None:
    assert has_bfloat16_units(torch.device("cuda")) and has_bfloat16_units(torch.device("mps"))


def test_pytorch_answers_for_this_cpu() -> None:
    assert has_bfloat16_units(torch.device("cpu")) in (True, False)


@pytest.mark.parametrize(
    ("hip", "capability", "has_units"), [(None, (8, 9), True), (None, (8, 6), False), ("7.0", (11, 0), False)]
)
def test_float8_units_are_those_of_nvidia(
    monkeypatch: pytest.MonkeyPatch, hip: str | None, capability: tuple[int, int], has_units: bool
) -> None:
    """PyTorch for AMD's GPUs reports capabilities above 8.9 for GPUs without such units."""
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_fp8_units(torch.device("cuda")) is has_units
