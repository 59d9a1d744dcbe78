"""The choice of a number format for the setting `dtype=auto`."""

from collections.abc import Collection

import torch

from config.settings import LoadSettings
from config.sizes import TOKEN_PIXELS, Size
from config.units import format_memory
from model.checkpoint.quantization import QUANTIZATIONS, Quantization
from model.devices import has_bfloat16_units, usable_memory
from model.errors import DeviceMemoryError
from model.memory.estimate import USUAL_PREFIXES, Weights, Workload, choose_offload_plan, peak_bytes
from model.network.configuration import ModelConfig

FLOAT32_BYTES = 4


def choose_dtype(
    settings: LoadSettings, device: torch.device, config: ModelConfig, image_tokens: int
) -> tuple[str, str | None]:
    """Return the number format for a model on a device, and a notice for the user or None.

    `auto` is bfloat16, except on a CPU that cannot multiply bfloat16 numbers: there a matrix product takes about 100
    times as long as in float32 (AVX2, PyTorch 2.13), so `auto` is float32 if an offload plan fits. A plan may stream
    layers from files, which costs less than slow products. Float8 weights exist only beside bfloat16.

    Args:
        image_tokens: tokens of the largest picture to reserve memory for.
    """
    quantization = QUANTIZATIONS[settings.quantization]
    is_fast = has_bfloat16_units(device)
    if quantization.format != "fp8" and settings.dtype != "auto":
        return settings.dtype, None
    if is_fast:
        return "bfloat16", None
    if quantization.format == "fp8":  # also if the user has chosen bfloat16, without which there is no float8
        return "bfloat16", (
            "float8 weights need bfloat16, in which this CPU is slow: "
            "`quantization=int8` or `quantization=off` is faster"
        )
    budget = usable_memory(device, settings.gpu_memory_bytes)
    workload = Workload(image_tokens, USUAL_PREFIXES)
    copies = settings.cfg_parallel_size
    if settings.gpus or settings.tensor_parallel_size * copies > 1:  # ranks on one CPU share the host's memory
        wanted, budget = "off", None if budget is None else budget // copies
    else:
        wanted = settings.offload
    if budget is None or _fits(config, quantization, workload, wanted, budget):
        return "float32", None
    return "bfloat16", (
        f"this CPU is slow in bfloat16, but {format_memory(budget)} of memory is too little for float32; "
        "a GPU or a server (`server`) would be faster"
    )


def image_tokens_of(sizes: Collection[Size]) -> int:
    """Return the tokens of the largest of these pictures; 0 without any."""
    return max((width * height // TOKEN_PIXELS**2 for width, height in sizes), default=0)


def _fits(config: ModelConfig, quantization: Quantization, workload: Workload, offload: str, budget: int) -> bool:
    """Return whether the model fits in float32 with the plan that `offload` asks for."""
    weights = Weights.of(config, FLOAT32_BYTES, quantization)
    try:
        plan = choose_offload_plan(offload, config, weights, workload, FLOAT32_BYTES, budget)
    except DeviceMemoryError:
        return False
    return peak_bytes(config, weights, plan, workload, FLOAT32_BYTES) <= budget
