"""Predict the memory and the speed of a model on this machine, without loading it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from config.recommended import read_recommended
from config.settings import LoadSettings
from config.sizes import Size
from model.bench.bench import SHAPE_SIZES, shape_config
from model.bench.ceilings import Ceilings, measure_ceilings
from model.bench.forecast import Forecast, Supply, forecasts, measure_supply
from model.bench.machine import Machine, describe_machine
from model.checkpoint.quantization import resolve_quantization
from model.devices import resolve_device, resolve_dtype, usable_memory
from model.memory.errors import memory_errors
from model.network.configuration import read_config


@dataclass(frozen=True)
class Examination:
    """The result of `examine`.

    Attributes:
        ceilings, supply: rates that the device, the link to it and the files reach.
        budget: bytes of the device's memory that a model may take; None where the system does not say.
        forecasts: of each way to place the model at each size; empty without a budget.
    """

    machine: Machine
    ceilings: Ceilings
    supply: Supply
    budget: int | None
    forecasts: tuple[Forecast, ...]


def examine(
    model: Path | str,
    settings: LoadSettings,
    sizes: Sequence[Size] = (),
    *,
    ceilings: Ceilings | None = None,
    supply: Supply | None = None,
    on_machine: Callable[[Machine], None] = lambda machine: None,
) -> Examination:
    """Find out which pictures a model would draw on this machine, and how fast.

    Args:
        model: a checkpoint's folder, or the name of a built-in shape (`SHAPES`), which needs no files.
        settings: the device, the number format, the quantization and the memory.
        sizes: of pictures, in pixels; if empty, the first one the model was trained on.
        ceilings: rates of the device; None measures them.
        supply: rates at which weights are loaded; None measures them.
        on_machine: called with the machine before the measurements, which take a while.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        DeviceError: the device is not there, or has no such quantization.
        DeviceMemoryError: the device has no memory left to measure with.
    """
    device, dtype = resolve_device(settings.device), resolve_dtype(settings.dtype)
    towers = resolve_quantization(settings.quantization, device, dtype)
    folder = model if isinstance(model, Path) else None
    config = read_config(folder) if folder is not None else shape_config(str(model))
    usual = SHAPE_SIZES if folder is None else read_recommended(folder).trained_sizes[:1]
    machine = describe_machine(device, config)
    budget = usable_memory(device, settings.gpu_memory_bytes)
    on_machine(machine)
    with memory_errors("measuring this device", lambda: "end other programs that use it, and try again"):
        ceilings = ceilings or measure_ceilings(device, dtype)
        supply = supply or measure_supply(device, folder)
    found: tuple[Forecast, ...] = ()
    if budget is not None:
        found = tuple(forecasts(config, sizes or usual, device, dtype.itemsize, towers, budget, ceilings, supply))
    return Examination(machine, ceilings, supply, budget, found)
