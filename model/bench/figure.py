"""One measurement of `sensenova bench`."""

from dataclasses import dataclass
from typing import Literal

from model.bench.energy import Energy


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        work: the name of the measured work, such as `guided step 2048x2048`.
        seconds: the median time of one step, one token or one load.
        rate: floating-point operations or bytes per second; 0 if neither is meaningful.
        unit: the unit of `rate`.
        ceiling: the device's own rate in the same unit, from `measure_ceilings`; 0 if none compares.
        peak_memory: bytes; on CUDA the peak of allocated memory during the work, elsewhere the process's peak resident
            set.
        energy: the energy of one step, token, picture or answer; None if it was not measured.
    """

    work: str
    seconds: float
    rate: float
    unit: Literal["FLOP/s", "B/s"]
    ceiling: float
    peak_memory: int
    energy: Energy | None = None

    @property
    def share(self) -> float | None:
        """The rate as a fraction of the ceiling, 0 to 1; None without a ceiling."""
        return self.rate / self.ceiling if self.ceiling else None
