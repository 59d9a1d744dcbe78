"""The CUDA context is created beside the import of PyTorch. The driver is a fake: no GPU is needed."""

import ctypes
import sys
import threading
from typing import Any

import pytest

from config.settings import LoadSettings
from model import cuda_context
from model.cuda_context import creating_cuda_context


class Driver:
    """A driver that records its calls; `fails` is the function that returns an error."""

    def __init__(self, fails: str = "") -> None:
        self.calls: list[tuple[str, int]] = []
        self._fails = fails

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            number = arguments[-1]
            self.calls.append((name, number.value if isinstance(number, ctypes.c_int) else number))
            if name == "cuDeviceGet":
                arguments[0]._obj.value = 10 + number
            return int(name == self._fails)

        return call


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A fake driver, in a process on Linux that has not imported PyTorch."""
    made = Driver()
    monkeypatch.setattr(cuda_context.ctypes, "CDLL", lambda name: made)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("CUDA_MODULE_LOADING", "EAGER")
    return made


@pytest.mark.parametrize(("device", "index"), [("auto", 0), ("cuda", 0), ("cuda:3", 3)])
def test_the_context_is_that_of_the_device(device: str, index: int, driver: Driver) -> None:
    with creating_cuda_context(LoadSettings(device=device)):
        pass
    assert driver.calls == [("cuInit", 0), ("cuDeviceGet", index), ("cuDevicePrimaryCtxRetain", 10 + index)]


@pytest.mark.parametrize(
    "settings", [{"device": "cpu"}, {"device": "mps"}, {"tensor_parallel_size": 2}, {"gpus": 1}, {"gpus": "all"}]
)
def test_other_devices_and_several_ranks(settings: dict[str, Any], driver: Driver) -> None:
    with creating_cuda_context(LoadSettings(**settings)):
        pass
    assert driver.calls == []


def test_pytorch_is_imported_already(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", cuda_context)
    with creating_cuda_context(LoadSettings()):
        pass
    assert driver.calls == []


def test_a_rank_of_a_launcher(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with creating_cuda_context(LoadSettings()):
        pass
    assert driver.calls == []


@pytest.mark.parametrize("fails", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain"])
def test_errors_of_the_driver_are_left_to_pytorch(fails: str, driver: Driver) -> None:
    driver._fails = fails
    with creating_cuda_context(LoadSettings()):
        pass
    assert driver.calls[-1][0] == fails


def test_no_driver(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(cuda_context.ctypes, "CDLL", missing)
    with creating_cuda_context(LoadSettings()):
        pass


def test_the_thread_ends_after_an_error(driver: Driver) -> None:
    with pytest.raises(ImportError), creating_cuda_context(LoadSettings()):
        raise ImportError
    assert not [thread for thread in threading.enumerate() if thread.name == "CUDA context"]
