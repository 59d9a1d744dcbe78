"""The energy of a measurement on an NVIDIA GPU, from the driver's library NVML.

The GPU counts its energy in millijoules and updates the counter about every 100 ms, so the energy of one step is that
of many steps in a row, divided by their number. The library is used through ctypes: it comes with the driver.
"""

import ctypes
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from model.device_kinds import DeviceKind
from model.errors import DeviceError

LIBRARY = "libnvidia-ml.so.1"
SM_CLOCK = 1
"""`NVML_CLOCK_SM`."""
SHORTEST = 0.5
"""Seconds. Shorter measurements have no energy: the counter would be wrong by a fifth or more."""


@dataclass(frozen=True)
class Energy:
    """The energy of a measurement.

    Attributes:
        joules: energy of one step, token, picture or answer, of the whole card.
        watts: mean power during the measurement.
        megahertz: median clock of the multiprocessors.
        seconds: duration of the measurement.
    """

    joules: float
    watts: float
    megahertz: float
    seconds: float


class Meter:
    """A meter that measures nothing: for measurements without energy.

    Attributes:
        measures: whether `stop` may return an energy.
    """

    measures = False

    def start(self) -> None:
        """Begin a measurement, now that the device has finished the work before."""

    def sample(self) -> None:
        """Read what changes during a measurement, such as the clock."""

    def stop(self, count: int) -> Energy | None:
        """End a measurement of `count` equal parts; return the energy of one, or None if it is not known."""
        return None


class EnergyMeter(Meter):
    """A meter of one GPU's energy."""

    measures = True

    def __init__(self, library: Any, uuid: str) -> None:
        """
        Args:
            library: NVML as a ctypes library, or an object with the same functions.
            uuid: the GPU's, such as `GPU-8a5b…`.

        Raises:
            DeviceError: the driver refuses, or the GPU does not count its energy.
        """
        self._library = library
        self._device = ctypes.c_void_p()
        self._start, self._clock = 0, 0.0
        self._megahertz: list[int] = []
        self._call("nvmlInit_v2")
        self._call("nvmlDeviceGetHandleByUUID", ctypes.c_char_p(uuid.encode()), ctypes.byref(self._device))
        self._millijoules()
        self._read_clock()

    def start(self) -> None:
        """See `Meter.start`."""
        self._megahertz.clear()
        self._start, self._clock = self._millijoules(), time.perf_counter()

    def sample(self) -> None:
        """See `Meter.sample`."""
        self._megahertz.append(self._read_clock())

    def stop(self, count: int) -> Energy | None:
        """See `Meter.stop`. A measurement shorter than `SHORTEST`, or without a part, has no energy."""
        seconds = time.perf_counter() - self._clock
        joules = (self._millijoules() - self._start) / 1000
        if seconds < SHORTEST or count == 0:
            return None
        megahertz = statistics.median(self._megahertz or [self._read_clock()])
        return Energy(joules / count, joules / seconds, megahertz, seconds)

    def _millijoules(self) -> int:
        """Return the energy that the GPU has used since the driver was loaded."""
        energy = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(energy))
        return energy.value

    def _read_clock(self) -> int:
        clock = ctypes.c_uint()
        self._call("nvmlDeviceGetClockInfo", self._device, ctypes.c_uint(SM_CLOCK), ctypes.byref(clock))
        return clock.value

    def _call(self, name: str, *arguments: Any) -> None:
        """Call a function of the library, all of which return 0 or the number of an error."""
        function = getattr(self._library, name, None)
        if function is None:
            raise DeviceError(
                f"the driver's library NVML has no {name}", "update the driver, or measure without energy"
            )
        if error := function(*arguments):
            describe = self._library.nvmlErrorString
            describe.restype = ctypes.c_char_p
            reason = describe(error).decode(errors="replace")
            raise DeviceError(
                f"the GPU does not tell its energy: {name} says {reason}",
                "measure without energy; GPUs count their energy from Volta on, and parts of a divided GPU do not",
            )


def open_meter(device: torch.device) -> EnergyMeter:
    """Return the meter of a GPU.

    Raises:
        DeviceError: the device is not an NVIDIA GPU, the library is missing, or the GPU does not count its energy.
    """
    if not DeviceKind.of(device).has_streams or torch.version.hip is not None:
        raise DeviceError(
            f"energy is measured on NVIDIA's GPUs only, and this measurement runs on {device.type}",
            "measure without energy",
        )
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise DeviceError(
            f"the driver's library NVML cannot be used: {error}",
            "install it with the driver, or measure without energy",
        ) from None
    return EnergyMeter(library, f"GPU-{torch.cuda.get_device_properties(device).uuid}")
