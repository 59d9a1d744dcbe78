"""Benchmarks: how fast a model runs on this machine, how close that is to the limits of the device, and how fast a
server answers.

Public names are imported on first use, so importing this package does not import PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.bench.bench import BenchPart, BenchPlan, describe_bench, measure
    from model.bench.ceilings import Ceilings
    from model.bench.doctor import Examination, examine
    from model.bench.energy import Energy
    from model.bench.figure import Figure
    from model.bench.forecast import Bandwidth, Forecast
    from model.bench.machine import Machine
    from model.bench.server import ServerFigure, ServerPlan, measure_server
    from model.bench.startup import temporary_checkpoint
    from model.memory.estimate import OffloadPlan

_HOMES = {
    "model.bench.bench": ["BenchPlan", "BenchPart", "describe_bench", "measure"],
    "model.bench.ceilings": ["Ceilings"],
    "model.bench.energy": ["Energy"],
    "model.bench.figure": ["Figure"],
    "model.bench.doctor": ["Examination", "examine"],
    "model.bench.forecast": ["Bandwidth", "Forecast"],
    "model.bench.machine": ["Machine"],
    "model.bench.server": ["ServerFigure", "ServerPlan", "measure_server"],
    "model.bench.startup": ["temporary_checkpoint"],
    "model.memory.estimate": ["OffloadPlan"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Bandwidth",
    "BenchPart",
    "BenchPlan",
    "Ceilings",
    "Energy",
    "Examination",
    "Figure",
    "Forecast",
    "Machine",
    "OffloadPlan",
    "ServerFigure",
    "ServerPlan",
    "describe_bench",
    "examine",
    "measure",
    "measure_server",
    "temporary_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'model.bench' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
