"""`sensenova doctor`: what this machine is, and which pictures a model would draw on it, how and how fast."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from config.recommended import read_recommended
from config.schema import Settings
from config.sizes import Size
from model.weights.builtin import DEMO_MODEL
from sensenova_cli.commands.bench import DUMMY_MODELS, DUMMY_SIZES, parse_sizes
from sensenova_cli.flags import Flags
from sensenova_cli.options import COMMON_OPTIONS, with_options

if TYPE_CHECKING:
    from model.bench.ceilings import Ceilings
    from model.bench.forecast import Supply
    from model.network.configuration import ModelConfig


@with_options("model", "device", "dtype", "quantization", "gpu_memory", *COMMON_OPTIONS)
def doctor(
    flags: Flags,
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="Picture size; repeat it for several. \\[the model's first; u1-8b: 1024x1024 and 2048x2048]",
            metavar="WxH",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Tell what this machine is, and which pictures a model would draw on it.

    [bold]Examples[/bold]
      sensenova doctor
      sensenova doctor --model u1-8b              # the 8B's shape; no files needed
      sensenova doctor --model u1-8b --gpu-memory 8GiB --size 2048x2048

    No weights are loaded. Memory is predicted, and so are the seconds of a
    guided step, from what the device, the link to it and the files reach now.
    * marks what is taken where nothing else is set (--offload auto).
    """
    sizes = parse_sizes(size)
    examine(flags.resolve().settings, sizes, as_json=flags.json, quiet=flags.quiet)


def examine(
    settings: Settings,
    sizes: Sequence[Size] = (),
    *,
    as_json: bool = False,
    quiet: bool = False,
    ceilings: "Ceilings | None" = None,
    supply: "Supply | None" = None,
) -> None:
    """Print what this machine is and which pictures a model would draw on it.

    Args:
        settings: name the model, the device, the number format and the memory.
        sizes: of pictures, in pixels; if empty, the first one the model was trained on.
        as_json: print one JSON object instead of lines.
        quiet: print no notices on stderr.
        ceilings: rates of the device; None measures them.
        supply: rates at which weights are loaded; None measures them.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        DeviceError: the device is not there, or has no such quantization.
        DeviceMemoryError: the device has no memory left to measure with.
    """
    from sensenova_cli.render.stream import Renderer
    from sensenova_cli.turn import find_model

    renderer = Renderer(quiet=quiet)
    is_shape = settings.model in DUMMY_MODELS
    folder = None if is_shape else find_model(settings, renderer)
    usual = DUMMY_SIZES if folder is None else read_recommended(folder).trained_sizes[:1]
    # PyTorch is imported only now, when nothing that was typed can be wrong any more.
    from model.bench.ceilings import measure_ceilings
    from model.bench.forecast import forecasts, measure_supply
    from model.bench.machine import describe_machine
    from model.placement.devices import resolve_device, resolve_dtype
    from model.placement.memory import memory_errors
    from model.placement.placed import usable_memory
    from model.weights.quantize import resolve_quantization
    from sensenova_cli.render.doctor import forecast_json, machine_lines, supply_line, table_lines
    from sensenova_cli.render.json import print_json

    device, dtype = resolve_device(settings.device), resolve_dtype(settings.dtype)
    towers = resolve_quantization(settings.quantization, device, dtype)
    config = _config(settings.model, folder)
    machine = describe_machine(device, config)
    budget = usable_memory(device, settings.gpu_memory_bytes)
    if not as_json:
        for line in machine_lines(machine):
            typer.echo(line)
    with memory_errors("measuring this device", lambda: "end other programs that use it, and try again"):
        ceilings = ceilings or measure_ceilings(device, dtype)
        supply = supply or measure_supply(device, folder)
    if supply.note is not None:
        renderer.notice(supply.note)
    found = list(
        forecasts(config, sizes or usual, device, dtype.itemsize, towers, budget or 0, ceilings, supply)
        if budget is not None
        else ()
    )
    name = settings.model or DEMO_MODEL
    if as_json:
        print_json(forecast_json(machine, ceilings, supply, name, settings.dtype, budget, found))
        return
    typer.echo(supply_line(ceilings, supply))
    for line in table_lines(name, settings.dtype, budget, found):
        typer.echo(line)


def _config(model: str | None, folder: Path | None) -> "ModelConfig":
    from model.bench.bench import shape_config
    from model.network.configuration import read_config

    return read_config(folder) if folder is not None else shape_config(model or "")
