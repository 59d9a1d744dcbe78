"""Energy of measurements, with an object in place of the driver's library."""

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.bench import energy as energy_module
from model.bench.bench import bench_decode, bench_denoise
from model.bench.ceilings import Ceilings
from model.bench.energy import EnergyMeter, Meter, open_meter
from model.checkpoint.random_weights import config_fields, random_network
from model.errors import DeviceError
from model.network.configuration import parse_config
from model.sampling.backend import Backend


class Driver:
    """NVML of one GPU, which uses 700 W and has a clock that falls by 10 MHz with each reading.

    Attributes:
        now: the time in seconds, which a test moves.
        errors: the error number of each function; 0 if it has none here.
    """

    def __init__(self, **errors: int) -> None:
        self.now = 100.0
        self.errors = errors
        self.uuids: list[bytes] = []
        self._megahertz = 1990
        self.nvmlErrorString = lambda number: b"Not Supported" if number == 3 else b"Unknown Error"

    def nvmlInit_v2(self) -> int:
        return self.errors.get("nvmlInit_v2", 0)

    def nvmlDeviceGetHandleByUUID(self, uuid: ctypes.c_char_p, device: Any) -> int:
        assert uuid.value is not None
        self.uuids.append(uuid.value)
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Any, energy: Any) -> int:
        energy._obj.value = int(700_000 * self.now)
        return self.errors.get("nvmlDeviceGetTotalEnergyConsumption", 0)

    def nvmlDeviceGetClockInfo(self, device: Any, kind: ctypes.c_uint, clock: Any) -> int:
        assert kind.value == 1, "the clock of the multiprocessors"
        self._megahertz -= 10
        clock._obj.value = self._megahertz
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A driver whose time is that of the meters."""
    driver = Driver()
    monkeypatch.setattr(energy_module, "time", SimpleNamespace(perf_counter=lambda: driver.now))
    return driver


def test_the_energy_of_one_of_several_steps(driver: Driver) -> None:
    meter = EnergyMeter(driver, "GPU-1234")
    meter.start()
    for _ in range(4):
        driver.now += 0.25
        meter.sample()
    found = meter.stop(4)
    assert found is not None
    assert (found.joules, found.watts, found.seconds) == pytest.approx((175, 700, 1.0))
    assert found.megahertz == 1955, "the median of 1970 to 1940; 1980 was read before the measurement"
    assert driver.uuids == [b"GPU-1234"]
    meter.start()
    driver.now += 2
    second = meter.stop(1)
    assert second is not None and (second.joules, second.megahertz) == pytest.approx((1400, 1930))


def test_short_work_has_no_energy(driver: Driver) -> None:
    meter = EnergyMeter(driver, "GPU-1234")
    meter.start()
    driver.now += 0.4
    assert meter.stop(4) is None
    driver.now += 9
    assert meter.stop(0) is None


def test_without_energy_nothing_is_measured() -> None:
    meter = Meter()
    meter.start()
    meter.sample()
    assert meter.stop(1) is None and not meter.measures


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ({"nvmlInit_v2": 999}, "nvmlInit_v2 says Unknown Error"),
        ({"nvmlDeviceGetTotalEnergyConsumption": 3}, "nvmlDeviceGetTotalEnergyConsumption says Not Supported"),
    ],
)
def test_a_gpu_that_does_not_count_energy(errors: dict[str, int], message: str) -> None:
    with pytest.raises(DeviceError, match=message) as raised:
        EnergyMeter(Driver(**errors), "GPU-1234")
    assert raised.value.hint is not None and "measure without energy" in raised.value.hint


def test_a_driver_that_is_too_old() -> None:
    with pytest.raises(DeviceError, match="NVML has no nvmlDeviceGetHandleByUUID"):
        EnergyMeter(SimpleNamespace(nvmlInit_v2=lambda: 0), "GPU-1234")


def test_another_device_has_no_energy() -> None:
    with pytest.raises(DeviceError, match="on NVIDIA's GPUs only, and this measurement runs on cpu"):
        open_meter(torch.device("cpu"))


def test_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy_module, "LIBRARY", "libnvidia-ml-missing.so.1")
    with pytest.raises(DeviceError, match=r"NVML cannot be used: .*libnvidia-ml-missing") as raised:
        open_meter(torch.device("cuda"))
    assert raised.value.hint == "install it with the driver, or measure without energy"


class CountingMeter(EnergyMeter):
    """A meter that also counts the parts of its measurements."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver, "GPU-1234")
        self.counts: list[int] = []

    def stop(self, count: int) -> Any:
        self.counts.append(count)
        return super().stop(count)


def test_steps_tokens_and_pictures_have_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy_module, "SHORTEST", 0.0)
    fields = config_fields(
        hidden=64, layers=1, heads=2, kv_heads=1, head_dim=32, ffn=64, vocabulary=300, vision_hidden=32
    )
    backend = Backend(random_network(parse_config(fields, "random"), torch.device("cpu"), torch.float32))
    meter = CountingMeter(Driver())
    figures = [
        *bench_denoise(backend, (64, 64), 3, Ceilings(1.0, 1.0), meter),
        bench_decode(backend, 5, Ceilings(1.0, 1.0), meter),
    ]
    measured = [figure.work for figure in figures if figure.energy is not None]
    assert measured == ["guided step 64x64", "unguided step 64x64", "guided picture 64x64, 3 steps", "token written"]
    assert meter.counts == [3, 3, 1, 5]
    works = [figure.work for figure in bench_denoise(backend, (64, 64), 1, Ceilings(1.0, 1.0))]
    assert not any("picture" in work for work in works)
