"""Predict the memory and the speed of a model on this machine, without loading it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from config.recommended import read_recommended
from config.settings import LoadSettings
from config.sizes import Size
from model.bench.bench import SHAPE_SIZES, shape_config
from model.bench.ceilings import Ceilings, measure_ceilings, projection_rate
from model.bench.forecast import Bandwidth, Forecast, forecasts, measure_bandwidth
from model.bench.machine import Machine, describe_machine
from model.checkpoint.quantization import LAYERS, resolve_quantization
from model.device_kinds import DeviceKind
from model.devices import resolve_device, resolve_dtype, usable_memory
from model.memory.errors import memory_errors
from model.memory.number_format import choose_dtype, image_tokens_of
from model.network.configuration import read_config


@dataclass(frozen=True)
class Examination:
    """The result of `examine`.

    Attributes:
        dtype: the number format of the forecasts.
        dtype_note: why `auto` is not the fastest format; None otherwise.
        ceilings, bandwidth: measured rates of the device, of the link to it and of the files.
        budget: bytes of the device's memory that a model may take; None if the system does not report them.
        forecasts: one for each offload plan at each size; empty without a budget.
    """

    dtype: str
    dtype_note: str | None
    machine: Machine
    ceilings: Ceilings
    bandwidth: Bandwidth
    budget: int | None
    forecasts: tuple[Forecast, ...]


def examine(
    model: Path | str,
    settings: LoadSettings,
    sizes: Sequence[Size] = (),
    *,
    ceilings: Ceilings | None = None,
    bandwidth: Bandwidth | None = None,
) -> Examination:
    """Predict which picture sizes a model can make on this machine, and how fast.

    Args:
        model: a checkpoint folder, or the name of a built-in shape (`SHAPES`), which needs no files.
        settings: the device, the number format, the quantization, the memory limit, and a file of weights.
        sizes: picture sizes in pixels; if empty, the first size that the model was trained on.
        ceilings, bandwidth: known rates; None measures them.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        DeviceError: the device does not exist, or does not support the quantization.
        DeviceMemoryError: the device has too little free memory for the measurements.
    """
    device = resolve_device(settings.device)
    folder = model if isinstance(model, Path) else None
    config = read_config(folder) if folder is not None else shape_config(str(model))
    sizes = sizes or (SHAPE_SIZES if folder is None else read_recommended(folder).trained_sizes[:1])
    dtype_name, note = choose_dtype(settings, device, config, image_tokens_of(sizes))
    dtype = resolve_dtype(dtype_name)
    quantization = resolve_quantization(settings.quantization, device, dtype)
    machine = describe_machine(device, config)
    budget = usable_memory(device, settings.gpu_memory_bytes)
    with memory_errors("measuring this device", lambda: "end other programs that use it, and try again"):
        ceilings = ceilings or measure_ceilings(device, dtype)
        weights = Path(settings.weights_file) if settings.weights_file else None
        bandwidth = bandwidth or measure_bandwidth(device, folder, weights)
        rate = None
        if quantization and not DeviceKind.of(device).compiles_kernels:  # on CUDA our kernels multiply, not the layer
            width = config.transformer.hidden_size
            rate = projection_rate(LAYERS[quantization.format](width, width, device), width, device, dtype)
    found: tuple[Forecast, ...] = ()
    if budget is not None:
        found = tuple(forecasts(config, sizes, device, dtype.itemsize, quantization, budget, ceilings, bandwidth, rate))
    return Examination(dtype_name, note, machine, ceilings, bandwidth, budget, found)
