"""The measurements of `sensenova bench`: denoising steps, decoding and loading."""

import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

from config.errors import SenseNovaError
from config.recommended import Recommended, read_recommended
from config.settings import ImageSettings, LoadSettings
from config.sizes import TOKEN_PIXELS, Size, format_size
from config.units import format_bytes
from model.backends.select import select_backend
from model.bench.ceilings import Ceilings, measure_ceilings, median_seconds
from model.bench.energy import Energy, Meter, open_meter
from model.bench.figure import Figure
from model.bench.interleave import bench_interleave
from model.bench.machine import device_name
from model.checkpoint.layout import ParameterSlice
from model.checkpoint.loader import load_checkpoint
from model.checkpoint.quantization import Quantization, resolve_quantization
from model.checkpoint.random_weights import SHAPES, config_fields, random_network
from model.checkpoint.writer import write_checkpoint
from model.device_kinds import DeviceKind
from model.devices import peak_memory, reset_peak_memory, resolve_device, resolve_dtype, synchronize
from model.events import Branch
from model.inputs.token_sequence import TokenSequence
from model.memory.errors import memory_errors
from model.memory.number_format import choose_dtype, image_tokens_of
from model.network.attention import Segment
from model.network.configuration import ModelConfig, parse_config, read_config
from model.network.counts import prediction_flops, token_bytes
from model.network.rope import text_positions
from model.network.sensenova import SenseNovaU1
from model.sampling.backend import Backend
from model.sampling.decode import CACHE_GROWTH, decode, greedy
from model.sampling.denoise import Step, denoise
from model.sampling.guidance import generate_guidance
from model.sampling.prefill import DenoiseState, Prefix, prefill

BenchPart = Literal["denoise", "decode", "load", "interleave"]

PROMPT_TOKENS, UNCONDITIONAL_TOKENS = 500, 12
"""Lengths of the prefixes: a long prompt, and about that of the unconditional branch."""
PROMPT_IDS = 256
"""Prompts use token ids below this number, which every vocabulary has."""
WARM_UP_TOKENS = 8
NO_METER = Meter()
FIRST_STEPS = 5
SHAPE_SIZES: tuple[Size, ...] = ((1024, 1024), (2048, 2048))
"""Picture sizes measured for a built-in shape if no size is named."""
LOAD_LAYERS = 4
"""Layers of the checkpoint that is written to be loaded for a built-in shape: 5.6 GB of an 8B model."""


@dataclass(frozen=True)
class BenchPlan:
    """The model and the work to measure.

    Attributes:
        model: a checkpoint folder, or the name of a built-in shape (`SHAPES`), which gets random weights.
        works: the parts to measure, in this order.
        sizes: picture sizes; if empty, the first size that the model was trained on.
        steps, tokens: the numbers of timed steps and tokens.
        settings: the device, number format, quantization, and whether kernels are compiled.
        energy: whether to measure energy, too.
    """

    model: Path | str
    works: Sequence[BenchPart]
    sizes: Sequence[Size]
    steps: int
    tokens: int
    settings: LoadSettings
    energy: bool = False


def measure(plan: BenchPlan) -> Iterator[Ceilings | Figure]:
    """Measure the device, then each part of the plan; yield each result as soon as it is known.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        DeviceError: the device does not exist, the quantization is not supported with it or the number format, or
            energy is asked for and cannot be measured.
        DeviceMemoryError: the weights or the work do not fit in the device's memory.
    """
    device = resolve_device(plan.settings.device)
    dtype = resolve_dtype(_dtype(plan, device))
    hint = "measure smaller pictures (`size=512x512`), a smaller model, or use a device with more memory"
    with memory_errors("this measurement", lambda: hint):
        quantization = resolve_quantization(plan.settings.quantization, device, dtype)
        meter = open_meter(device) if plan.energy else NO_METER
        ceilings = measure_ceilings(device, dtype)
        yield ceilings
        if {"denoise", "decode", "interleave"} & set(plan.works):
            if isinstance(plan.model, Path):
                network = load_checkpoint(plan.model, device, dtype, quantized=quantization)
            else:
                network = random_network(shape_config(plan.model), device, dtype, quantization)
            backend = select_backend(network, enforce_eager=plan.settings.enforce_eager)
            for work in plan.works:
                if work == "denoise":
                    for size in _sizes(plan):
                        yield from bench_denoise(backend, size, plan.steps, ceilings, meter)
                elif work == "decode":
                    yield bench_decode(backend, plan.tokens, ceilings, meter)
                elif work == "interleave":
                    recommended = read_recommended(plan.model) if isinstance(plan.model, Path) else Recommended()
                    for size in plan.sizes or recommended.interleave.trained_sizes[:1]:
                        settings = plan.settings.model_copy(update={"dtype": _dtype(plan, device)})
                        yield from bench_interleave(backend, settings, size, plan.steps, plan.tokens, ceilings, meter)
            del network, backend
        if "load" in plan.works:
            if isinstance(plan.model, Path):
                yield bench_load(plan.model, device, dtype, quantization)
            else:
                yield bench_load_of_shape(plan.model, device, dtype, quantization)


def describe_bench(plan: BenchPlan) -> dict[str, Any]:
    """Return the conditions of the measurements: device, number format, PyTorch's version and so on."""
    device = resolve_device(plan.settings.device)
    return {
        "weights": "random" if isinstance(plan.model, str) else "its own",
        "device": device_name(device),
        "threads": None if DeviceKind.of(device).is_gpu else torch.get_num_threads(),
        "dtype": _dtype(plan, device),
        "quantization": plan.settings.quantization,
        "enforce_eager": plan.settings.enforce_eager,
        "torch": torch.__version__,
        "steps": plan.steps,
        "tokens": plan.tokens,
    }


def _sizes(plan: BenchPlan) -> Sequence[Size]:
    """Return the picture sizes to measure."""
    if plan.sizes:
        return plan.sizes
    return read_recommended(plan.model).trained_sizes[:1] if isinstance(plan.model, Path) else SHAPE_SIZES


def _dtype(plan: BenchPlan, device: torch.device) -> str:
    """Return the number format of the measurements, which keep all weights on the device."""
    config = read_config(plan.model) if isinstance(plan.model, Path) else shape_config(plan.model)
    settings = plan.settings.model_copy(update={"offload": "off"})
    return choose_dtype(settings, device, config, image_tokens_of(_sizes(plan)))[0]


def shape_config(shape: str) -> ModelConfig:
    """Return the configuration of a built-in shape."""
    return parse_config(config_fields(**SHAPES[shape]), shape)


def bench_denoise(
    backend: Backend, size: Size, steps: int, ceilings: Ceilings, meter: Meter = NO_METER
) -> Iterator[Figure]:
    """Measure guided steps (two branches), unguided steps, prefill, and the time from a prompt to the first step. If
    the meter measures energy, measure a whole guided picture, too.

    Args:
        steps: the number of timed steps, and of the picture's. One more step runs before them and is not timed.
    """
    network = backend.network
    tokens = size[0] * size[1] // TOKEN_PIXELS**2
    flops = {
        branch: prediction_flops(network.config, tokens, length)
        for branch, length in (("condition", PROMPT_TOKENS), ("unconditional", UNCONDITIONAL_TOKENS))
    }
    for name, scale, work in (
        ("guided step", 4.0, sum(flops.values())),
        ("unguided step", 1.0, flops["condition"]),
    ):
        reset_peak_memory(network.device)
        median, energy = _timed_steps(backend, size, ImageSettings(num_steps=steps + 1, cfg_scale=scale), meter)
        title = f"{name} {format_size(size)}"
        yield Figure(title, median, work / median, "FLOP/s", ceilings.gemm, peak_memory(network.device), energy)
    if meter.measures:
        yield _bench_picture(backend, size, steps, steps * sum(flops.values()), ceilings, meter)
    reset_peak_memory(network.device)
    settings = ImageSettings()
    median = median_seconds(lambda: prefill_prompts(network, tokens), network.device)
    title = f"{PROMPT_TOKENS}-token prompt read, both branches"
    yield Figure(title, median, 0.0, "FLOP/s", 0.0, peak_memory(network.device))
    median = statistics.median(_first_step_seconds(backend, size, settings) for _ in range(FIRST_STEPS))
    title = f"{PROMPT_TOKENS}-token prompt to first step {format_size(size)}"
    yield Figure(title, median, 0.0, "FLOP/s", 0.0, peak_memory(network.device))


def median_step_seconds(backend: Backend, size: Size, settings: ImageSettings) -> float:
    """Return the median time of a picture's steps, without the first step."""
    return _timed_steps(backend, size, settings, NO_METER)[0]


def _timed_steps(backend: Backend, size: Size, settings: ImageSettings, meter: Meter) -> tuple[float, Energy | None]:
    """Return the median time and the mean energy of a picture's steps, without the first step."""
    drawing = denoise(backend, denoise_states(backend, size), generate_guidance(settings), size, 42, settings)
    seconds = _metered(seconds_of_each(drawing), meter, untimed=1)
    return statistics.median(seconds), meter.stop(len(seconds))


def _metered(seconds: Iterator[float], meter: Meter, untimed: int) -> list[float]:
    """Return the seconds of each item but the first `untimed`, after which the meter starts."""
    for _ in range(untimed):
        next(seconds)
    meter.start()
    timed = []
    for each in seconds:
        timed.append(each)
        meter.sample()
    return timed


def _bench_picture(backend: Backend, size: Size, steps: int, flops: int, ceilings: Ceilings, meter: Meter) -> Figure:
    """Measure a whole guided picture, from its prompt to its last step."""
    device, settings = backend.network.device, ImageSettings(num_steps=steps)
    reset_peak_memory(device)
    synchronize(device)
    meter.start()
    clock = time.perf_counter()
    drawing = denoise(backend, denoise_states(backend, size), generate_guidance(settings), size, 42, settings)
    for step in drawing:
        step.wait()
        meter.sample()
    seconds, energy = time.perf_counter() - clock, meter.stop(1)
    title = f"guided picture {format_size(size)}, {steps} steps"
    return Figure(title, seconds, flops / seconds, "FLOP/s", ceilings.gemm, peak_memory(device), energy)


def _first_step_seconds(backend: Backend, size: Size, settings: ImageSettings) -> float:
    """Return the time from a prompt to the end of the first step."""
    synchronize(backend.network.device)
    clock = time.perf_counter()
    drawing = denoise(backend, denoise_states(backend, size), generate_guidance(settings), size, 42, settings)
    next(drawing).wait()
    return time.perf_counter() - clock


def bench_decode(backend: Backend, tokens: int, ceilings: Ceilings, meter: Meter = NO_METER) -> Figure:
    """Measure greedy decoding behind a prompt of `PROMPT_TOKENS` tokens."""
    network, device = backend.network, backend.network.device
    reset_peak_memory(device)
    prefix = text_prefix(network, PROMPT_TOKENS, min(tokens, CACHE_GROWTH))
    writing = seconds_of_each(decode(backend, prefix, greedy, tokens + WARM_UP_TOKENS, ()))
    seconds = _metered(writing, meter, untimed=WARM_UP_TOKENS)
    median, energy = statistics.median(seconds), meter.stop(len(seconds))
    itemsizes = network.dtype.itemsize, network.und.weight_itemsize
    read = token_bytes(network.config, PROMPT_TOKENS + tokens // 2, *itemsizes)
    return Figure("token written", median, read / median, "B/s", ceilings.copy, peak_memory(device), energy)


def bench_load(checkpoint: Path, device: torch.device, dtype: torch.dtype, quantization: Quantization) -> Figure:
    """Load a checkpoint twice and time the second load, when its files are in the page cache.

    The figure's rate is that of the files' bytes, which are not those of the loaded weights if these are quantized.
    """
    total = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    reset_peak_memory(device)
    seconds = 0.0
    for _ in range(2):
        clock = time.perf_counter()
        load_checkpoint(checkpoint, device, dtype, quantized=quantization)
        synchronize(device)
        seconds = time.perf_counter() - clock
    title = f"loading {format_bytes(total)}"
    return Figure(title, seconds, total / seconds, "B/s", 0.0, peak_memory(device))


def bench_load_of_shape(shape: str, device: torch.device, dtype: torch.dtype, quantization: Quantization) -> Figure:
    """Measure loading for a built-in shape, with a checkpoint of zeros and fewer layers in a temporary folder.

    Raises:
        SenseNovaError: the checkpoint cannot be written.
    """
    fields = config_fields(**{**SHAPES[shape], "layers": LOAD_LAYERS})

    def zeros(name: str, place: ParameterSlice) -> Tensor:
        return torch.zeros(place.shape, dtype=torch.bfloat16)

    with tempfile.TemporaryDirectory(prefix="sensenova-bench-") as scratch:
        folder = Path(scratch) / shape
        try:
            write_checkpoint(folder, fields, zeros, dtype=torch.bfloat16)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SenseNovaError(
                f"a checkpoint to load cannot be written to {scratch}: {reason}",
                "set TMPDIR to a place with 6 GB of room, or leave load out",
            ) from error
        return bench_load(folder, device, dtype, quantization)


def prefill_prompts(network: SenseNovaU1, reserve: int) -> dict[Branch, Prefix]:
    """Prefill the prompts of both branches, with `reserve` more positions in the KV cache."""
    return {
        "condition": text_prefix(network, PROMPT_TOKENS, reserve),
        "unconditional": text_prefix(network, UNCONDITIONAL_TOKENS, reserve),
    }


def denoise_states(backend: Backend, size: Size) -> Mapping[Branch, DenoiseState]:
    """Prefill the prompts of both branches and return their denoise states."""
    tokens = size[0] * size[1] // TOKEN_PIXELS**2
    prefixes = prefill_prompts(backend.network, backend.room_for_picture(tokens))
    with torch.inference_mode():
        return backend.denoise_states(prefixes, tokens)


def text_prefix(network: SenseNovaU1, tokens: int, reserve: int) -> Prefix:
    """Prefill a text of random tokens, with `reserve` more positions in the KV cache."""
    device = network.device
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, PROMPT_IDS, (tokens,), generator=generator).to(device)
    sequence = TokenSequence(ids, text_positions(0, tokens, device), (Segment(tokens, causal=True),), tokens)
    with torch.inference_mode():
        return prefill(network, sequence, [], reserve)


def seconds_of_each(stream: Iterable[object]) -> Iterator[float]:
    """Yield the seconds that each item of a stream takes. A step ends when the device has finished it."""
    clock = time.perf_counter()
    for item in stream:
        if isinstance(item, Step):
            item.wait()
        now = time.perf_counter()
        yield now - clock
        clock = now
